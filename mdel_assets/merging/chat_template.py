"""The chat template of a merged model, written into its folder."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merged_tokenizer import AUTO
from mdel_assets.model_families.chat_templates import CHAT_TEMPLATES

_TEMPLATE, _CONFIG = "chat_template.jinja", "tokenizer_config.json"


def chat_template(setting: str, folders: Sequence[Path]) -> str | None:
    """Return the template that a recipe's setting means, for models in ``folders``.

    For ``auto`` it is the one that most of them have, the first of several; None if none has one.
    """
    if setting != AUTO:
        return CHAT_TEMPLATES.get(setting, setting)
    found = [own.strip() for folder in folders if (own := own_template(folder))]
    return Counter(found).most_common(1)[0][0] if found else None


def own_template(folder: Path) -> str | None:
    """Return a model's own chat template, the default one of several; None without one."""
    path = folder / _TEMPLATE
    if path.is_file():
        return path.read_text("utf-8")
    found: Any = _config(folder).get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else None


def refuse_missing_tokenizer(folder: Path) -> None:
    """Raise `MergeError` if the model in ``folder`` has no tokenizer to be given a template."""
    if not (folder / _CONFIG).is_file():
        raise MergeError(
            f"The recipe has a 'chat_template', but the model in {folder.name}, whose tokenizer "
            f"the merged model takes over, has no {_CONFIG}. Save its tokenizer beside it "
            f"(tokenizer.save_pretrained), or remove 'chat_template'."
        )


def write_chat_template(folder: Path, template: str) -> None:
    """Give the tokenizer in ``folder`` this template in place of what it has."""
    config = _config(folder)
    if config.pop("chat_template", None) is not None:
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / _CONFIG).write_text(text + "\n", "utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    (folder / _TEMPLATE).write_text(template, "utf-8")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
