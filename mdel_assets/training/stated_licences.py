"""The licence of a model, as its own card or configuration states it.

A card begins with YAML between two lines of dashes, of which ``license`` is an identifier such as
``apache-2.0``, or ``other`` with a ``license_name``.
"""

import json
import logging
from pathlib import Path

import yaml

from mdel_assets.hub.credentials import find_token

_log = logging.getLogger(__name__)
_CARD, _CONFIG = "README.md", "config.json"


def stated_licence(source: str | Path, *, revision: str | None = None) -> str | None:
    """Return the licence that a model's card, or else its configuration, states; None for none.

    ``source`` is a folder or a Hub id; a card that cannot be fetched counts as none.
    """
    if Path(source).is_dir():
        return _in_folder(Path(source))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        token = find_token() or False
        card = hf_hub_download(str(source), _CARD, revision=revision, token=token)
    except (HfHubHTTPError, OSError, ValueError) as error:
        _log.info("no card of %s to take its licence from: %s", source, error)
        return None
    return licence_in_card(Path(card).read_text("utf-8", errors="replace"))


def licence_in_card(text: str) -> str | None:
    """Return the licence that a card's front matter states."""
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return None
    try:
        front = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return None
    stated = front.get("license") if isinstance(front, dict) else None
    if stated == "other":
        stated = front.get("license_name") or stated
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    return str(stated) if stated else None


def _in_folder(folder: Path) -> str | None:
    card, config = folder / _CARD, folder / _CONFIG
    found = licence_in_card(card.read_text("utf-8", errors="replace")) if card.is_file() else None
    if found is None and config.is_file():
        content = json.loads(config.read_text("utf-8"))
        found = content.get("license") if isinstance(content, dict) else None
    return found if isinstance(found, str) and found else None
