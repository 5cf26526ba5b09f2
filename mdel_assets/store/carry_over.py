"""Files that a merged model takes over unchanged: configuration, generation config, tokenizer."""

import json
import re
import shutil
from pathlib import Path

from mdel_assets.store.artifacts import MAKING_NAME, RECORD_NAME

_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken"}
_LEFT_BEHIND = {
    RECORD_NAME,
    MAKING_NAME,
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
}
_OF_TOKENIZER = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|merges|chat_template"
    r"|spiece|spm|sentencepiece|sentencepiece\.bpe|tekken|.*tiktoken)\.(json|txt|model|jinja|tiktoken)|.*\.tiktoken"
)


def is_of_tokenizer(name: str) -> bool:
    """Whether a file of this name belongs to a tokenizer."""
    return _OF_TOKENIZER.fullmatch(name) is not None


def carry_over(
    source: Path, folder: Path, *, dtype: str | None, with_tokenizer: bool = True
) -> None:
    """Copy the files of a model that are neither weights, code nor record.

    If ``dtype`` is given, it is written into the configuration.
    """
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix not in _SUFFIXES or path.name in _LEFT_BEHIND:
            continue
        if with_tokenizer or not is_of_tokenizer(path.name):
            shutil.copyfile(path, folder / path.name)
    if dtype:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", "utf-8")
