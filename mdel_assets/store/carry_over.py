"""Files that a merged model takes over unchanged: configuration, generation config, tokenizer."""

import json
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


def carry_over(source: Path, folder: Path, *, dtype: str | None) -> None:
    """Copy the files of a model that are neither weights, code nor record.

    If ``dtype`` is given, it is written into the configuration.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _SUFFIXES and path.name not in _LEFT_BEHIND:
            shutil.copyfile(path, folder / path.name)
    if dtype:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", "utf-8")
