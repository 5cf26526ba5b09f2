"""Loading and saving models and tokenizers: safetensors only, remote code never."""

import copy
import logging
from pathlib import Path
from typing import Any

from mdel_assets.errors import MdelError, MergeError, TrainingError
from mdel_assets.experiment.fields import SpecialTokens
from mdel_assets.store.tensor_files import INDEX_NAME, WEIGHTS_NAME, TensorFolder

_VOCABULARY_NAMES = ("tokenizer", "vocab", "spiece", "sentencepiece")
_VOCABULARY_SUFFIXES = {".json", ".model", ".txt"}


def load_model(source: str | Path, *, dtype: str = "auto", revision: str | None = None) -> Any:
    """Return the causal LM at ``source`` (a folder or a Hub id) in evaluation mode.

    Raises:
        TrainingError: it does not exist, has no whole safetensors weights, or is not a causal LM.

    """
    from transformers import AutoModelForCausalLM

    _refuse_broken_weights(Path(source))
    return _load(AutoModelForCausalLM, source, revision, dtype=dtype, use_safetensors=True).eval()


def _refuse_broken_weights(folder: Path) -> None:
    """Check the files' headers first, because libraries raise all kinds of errors for broken ones.

    A folder without weights, or a source that is not a folder, is left to the library.
    """
    if not any((folder / name).is_file() for name in (WEIGHTS_NAME, INDEX_NAME)):
        return
    try:
        TensorFolder(folder)
    except MergeError as error:
        raise TrainingError(str(error)) from error


def load_tokenizer(source: str | Path, *, revision: str | None = None) -> Any:
    """Return the tokenizer at ``source``, for texts of any length.

    Raises:
        TrainingError: there is none.

    """
    tokenizer = stored_tokenizer(source, revision=revision)
    # Long documents are cut into windows or blocks later; a length limit would only warn.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def stored_tokenizer(source: str | Path, *, revision: str | None = None) -> Any:
    """Return the tokenizer at ``source`` as it is stored.

    Raises:
        TrainingError: there is none.

    """
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not any(
        path.suffix in _VOCABULARY_SUFFIXES
        for path in folder.iterdir()
        if path.name.startswith(_VOCABULARY_NAMES)
    ):
        # The library would return a tokenizer with an empty vocabulary.
        raise TrainingError(
            f"{source} has no tokenizer. Save the one that the model was trained with into it "
            f"(tokenizer.save_pretrained)."
        )
    return _load(AutoTokenizer, source, revision)


def reading(tokenizer: Any, special_tokens: SpecialTokens) -> Any:
    """Return a copy of the tokenizer that reads special tokens' literal text as configured."""
    reader = copy.deepcopy(tokenizer)
    reader.split_special_tokens = special_tokens == "text"
    return reader


def special_ids(tokenizer: Any) -> list[int]:
    """Return the ids of the tokens that stand for no text, such as ``<|endoftext|>``."""
    return [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]


def load_config(source: str | Path) -> Any:
    """Return the model configuration at ``source``."""
    from transformers import AutoConfig

    return _load(AutoConfig, source, None)


def check_tokenizer_fits(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer with ids that the model's embedding does not have."""
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise TrainingError(
            f"The tokenizer has ids up to {highest}, but the model's embedding has {rows} rows. "
            f"Use the tokenizer that the model was trained with."
        )


def num_positions(config: Any) -> int | None:
    """Return how many tokens a model of this configuration reads at most; None for no limit."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def refuse_long_blocks(config: Any, block_size: int, *, setting: str) -> None:
    """Refuse blocks longer than the model's context; ``setting`` is the setting of their length.

    Raises:
        TrainingError: they are longer.

    """
    limit = num_positions(config)
    if limit and block_size > limit:
        raise TrainingError(
            f"{setting} is {block_size}, but the model reads at most {limit} tokens. Lower "
            f"{setting}."
        )


def quiet() -> None:
    """Turn off transformers' own progress bars: the event log has its progress lines.

    Also turn off its warning that checkpoints are ordered by their number, which is intended.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)


def _load(kind: Any, source: str | Path, revision: str | None, **options: Any) -> Any:
    if revision is not None and not Path(source).is_dir():
        options["revision"] = revision
    quiet()
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except MdelError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{source} could not be loaded as {kind.__name__}: {error} Give a Hub id or a folder "
            f"made by save_pretrained, with safetensors weights and a tokenizer."
        ) from error
