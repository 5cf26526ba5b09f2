"""Measure one model on one dataset outside any experiment, and return a report's row.

Text is read with `datasets`, so both sides may be folders or Hub names.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mdel_assets.data.document_writer import document_id
from mdel_assets.errors import ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.hub.sources import fetch_model, hub_reference, resolve_commit
from mdel_assets.model_families.settings import shape_of
from mdel_assets.scoring.perplexity import Cell, perplexity_row
from mdel_assets.scoring.report_rows import ReportRow
from mdel_assets.scoring.score_together import score_documents
from mdel_assets.training.package_models import resolve_model

_log = logging.getLogger(__name__)
_USUAL_SPLITS = ("test", "test_domain", "validation", "validation_domain")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A report's row, and how many of the dataset's documents had no text and were left out."""

    row: ReportRow
    num_documents_without_text: int


def measure_perplexity(
    model: str,
    dataset: str,
    *,
    split: str | None,
    text_field: str,
    num_documents: int,
    evaluation: Evaluation,
    cache: Path,
) -> Measured:
    """Score ``model`` (a folder or Hub name) on a split of ``dataset`` (likewise).

    The default of ``split`` is the dataset's only split, else its first of `_USUAL_SPLITS`.

    A Hub name may end in ``@REVISION``; the row contains the commit it was resolved to.

    ``model`` may also be a model inside a package (``sample://smollm2-135m``); it is unpacked under
    ``cache``.

    Of more than ``num_documents`` documents a seeded uniform sample is drawn. ``text_field`` is a
    dotted path; a list of strings there is one text with an item per line.

    Raises:
        ScoringError: no such dataset, split or field, no text at all, or a model that reads fewer
            tokens than are asked for.
        TrainingError: no such model.

    """
    place, fingerprint = _model_place(model, cache)
    _refuse_short_context(model, Path(place), evaluation.max_length)
    dataset, revision = _at_commit(dataset)
    with _without_bars():
        split = split or _usual_split(dataset, revision)
        texts, num_without = _read_texts(
            dataset, revision, split, text_field, num_documents=num_documents, seed=evaluation.seed
        )
    keyed = {document_id(text.encode()): text for text in texts}
    _log.info("scoring %d documents of %s, split %s", len(texts), dataset, split)
    table = score_documents(place, sorted(keyed.items()), evaluation)
    ids = table.column("document_id").to_pylist()
    # A text that occurs twice is scored once and counts twice.
    rows = np.searchsorted(ids, sorted(document_id(text.encode()) for text in texts))
    columns = ("num_tokens", "num_bytes", "num_words", "nll_nats")
    label = f"{dataset}@{revision}" if revision else dataset
    cell = Cell(
        label, split, [ids[i] for i in rows], *(table.column(n).to_numpy()[rows] for n in columns)
    )
    row = perplexity_row(
        cell,
        model=model,
        max_length=evaluation.max_length,
        model_fingerprint=fingerprint,
        dataset_fingerprint=xxhash.xxh3_128_hexdigest("".join(cell.document_ids).encode()),
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
    )
    return Measured(row, num_without)


def _refuse_short_context(model: str, folder: Path, max_length: int) -> None:
    """Raise `ScoringError` where a model's configuration says that it reads fewer tokens."""
    try:
        limit = shape_of(json.loads((folder / "config.json").read_text("utf-8"))).max_positions
    except (ValueError, AttributeError):
        # What is wrong with it is told where it is loaded.
        return
    if limit and max_length > limit:
        raise ScoringError(
            f"--max-length is {max_length}, but '{model}' reads {limit} tokens at most: give "
            f"--max-length {limit}."
        )


def _at_commit(dataset: str) -> tuple[str, str | None]:
    """Return a dataset's name and, for a Hub dataset, its commit."""
    reference = hub_reference(dataset, kind="dataset")
    if reference is None and not Path(dataset).expanduser().exists():
        raise ScoringError(
            f"There is no dataset folder '{dataset}', and a Hub id is OWNER/NAME or "
            f"OWNER/NAME@REVISION. Correct --dataset."
        )
    return (reference.name, resolve_commit(reference)) if reference else (dataset, None)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep `datasets` from drawing a progress bar for every split."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()


def _usual_split(dataset: str, revision: str | None) -> str:
    import datasets

    try:
        there = datasets.get_dataset_split_names(dataset, revision=revision)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ScoringError(
            f"The dataset '{dataset}' cannot be read ({error}). Give a folder or a Hub name."
        ) from error
    if len(there) == 1:
        return str(there[0])
    for name in _USUAL_SPLITS:
        if name in there:
            return name
    raise ScoringError(
        f"Dataset '{dataset}' has the splits {', '.join(there) or 'none'}. Name one with --split."
    )


def _read_texts(
    dataset: str,
    revision: str | None,
    split: str,
    text_field: str,
    *,
    num_documents: int,
    seed: int,
) -> tuple[list[str], int]:
    import datasets

    try:
        rows = datasets.load_dataset(dataset, split=split, revision=revision)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ScoringError(
            f"The split '{split}' of dataset '{dataset}' cannot be read ({error}). Give a folder "
            f"or a Hub name, and one of its splits."
        ) from error
    head, *rest = text_field.split(".")
    if head not in rows.column_names:
        raise ScoringError(
            f"Dataset '{dataset}' has no field '{head}'. Its fields: "
            f"{', '.join(rows.column_names)}. Name one with --text-field."
        )
    if len(rows) > num_documents:
        rows = rows.shuffle(seed=seed).select(range(num_documents))
    found = [_text(row[head], rest, text_field) for row in rows.select_columns([head])]
    texts = [text for text in found if text]
    if not texts:
        raise ScoringError(f"No row of '{dataset}', split '{split}', has text in '{text_field}'.")
    return texts, len(found) - len(texts)


def _text(value: Any, path: list[str], field: str) -> str | None:
    for part in path:
        if isinstance(value, dict) and part not in value:
            raise ScoringError(
                f"There is no '{part}' in the field '{field}'; it holds: {', '.join(value)}."
            )
        value = value[part] if isinstance(value, dict) else None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if value is not None and not isinstance(value, str):
        raise ScoringError(
            f"The field '{field}' holds {type(value).__name__}, not text. Name another one with "
            f"--text-field."
        )
    return value


def _model_place(model: str, cache: Path) -> tuple[str, str]:
    """Return a model's folder, fetched if necessary, and its fingerprint."""
    from mdel_assets.merging.members import folder_digest

    place = resolve_model(model, cache=cache)
    if reference := hub_reference(place):
        commit = resolve_commit(reference)
        return str(fetch_model(reference, commit)), f"hub:{reference.name}@{commit}"
    folder = Path(place).expanduser()
    if not (folder / "config.json").is_file():
        problem = "has no config.json" if folder.is_dir() else "does not exist"
        raise ScoringError(
            f"'{model}' is not a model: the folder {problem}. A Hub id is OWNER/NAME or "
            f"OWNER/NAME@REVISION. Correct --model."
        )
    return str(folder), folder_digest(folder)
