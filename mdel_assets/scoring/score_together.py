"""Score several models on the same documents: in groups, each with a shared trunk.

Documents are scored from the longest to the shortest, in chunks; every finished chunk is saved in
the models' work folders. A killed run skips the chunks that are there, and documents that an
earlier run scored with the same model and settings are not scored again. The chunks can be dealt to
several processes, on several machines: each of them is the same whoever scores it.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets.errors import MdelError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.line.kind import ALL, Part
from mdel_assets.machine.memory import give_memory_back
from mdel_assets.scoring.chunks import (
    chunk_files,
    chunks_of,
    documents_in,
    keep_chunk,
    missing_in,
)
from mdel_assets.scoring.evaluation_documents import (
    EvaluationDocuments,
    TokenizedDocuments,
    evaluation_documents,
    tokenize,
)
from mdel_assets.scoring.loading import load_pack, load_to_score
from mdel_assets.scoring.log_probabilities import Scorer, scoring_progress
from mdel_assets.scoring.spread_layers import Memory, computing_device
from mdel_assets.scoring.token_scores import (
    DOCUMENT_SCHEMA,
    DOCUMENTS_NAME,
    DocumentSize,
    documents_table,
    prefix_token_id,
    write_scores,
)

_log = logging.getLogger(__name__)
_ROWS_PER_BATCH = 256
# A kill loses at most this much work: some seconds of a GPU, a minute of a CPU.
_TOKENS_PER_CHUNK = {"cpu": 1 << 15, "cuda": 1 << 19}


@dataclasses.dataclass(frozen=True)
class ScoringTask:
    """One model to score.

    Its scores go to ``folder``; ``work_folder`` keeps finished chunks; ``previous`` is a folder of
    scores of the same model and settings, perhaps on other datasets.
    """

    model: Path
    folder: Path
    work_folder: Path
    previous: Path | None = None


@dataclasses.dataclass(frozen=True)
class ScoringResult:
    """How much was scored and how much was reused; ``num_shared_layers`` 0 means scored alone."""

    num_documents: int
    num_tokens: int
    num_documents_scored_now: int
    num_shared_layers: int


@dataclasses.dataclass
class _Open:
    """A task in progress: documents that earlier scores lack, and those that no chunk has, too."""

    name: str
    task: ScoringTask
    new: tuple[str, ...]
    missing: frozenset[str]


@dataclasses.dataclass(frozen=True)
class _Done:
    """A task that has all its chunks, or an error."""

    opened: _Open
    error: MdelError | None
    num_shared_layers: int = 0


def score_models(
    tasks: Mapping[str, ScoringTask],
    *,
    datasets: Mapping[str, Path],
    evaluation: Evaluation,
    memory: Memory | None = None,
) -> Iterator[tuple[str, ScoringResult | MdelError]]:
    """Write every task's ``documents.parquet`` and ``cells.parquet``; yield each when it is done.

    ``datasets`` maps domains to dataset folders. A model that cannot be loaded or scored yields the
    error that says why, and does not stop the others. Models take no more than ``memory``; without
    it, what is free when each pack of them is loaded.
    """
    if not tasks:
        return
    documents = evaluation_documents(datasets, evaluation)
    for done in _all_scored(tasks, documents, evaluation, ALL, memory):
        if done.error is not None:
            yield done.opened.name, done.error
            continue
        finished = _finish(
            done.opened,
            documents.cells,
            num_scored=len(done.opened.missing),
            num_layers=done.num_shared_layers,
        )
        yield done.opened.name, finished


def score_part(
    tasks: Mapping[str, ScoringTask],
    part: Part,
    *,
    datasets: Mapping[str, Path],
    evaluation: Evaluation,
) -> Iterator[tuple[str, MdelError | None]]:
    """Score one part of the chunks into the work folders; yield each task's error, or None.

    After all parts, `score_models` finds nothing left to score and writes what it would have
    written alone, to the bit.
    """
    documents = evaluation_documents(datasets, evaluation)
    for done in _all_scored(tasks, documents, evaluation, part):
        yield done.opened.name, done.error


def wholly_scored(
    tasks: Mapping[str, ScoringTask], *, datasets: Mapping[str, Path], evaluation: Evaluation
) -> list[str]:
    """Return the tasks of which no chunk is missing."""
    documents = evaluation_documents(datasets, evaluation)
    return [name for name, task in tasks.items() if not _open(name, task, documents).missing]


def _all_scored(
    tasks: Mapping[str, ScoringTask],
    documents: EvaluationDocuments,
    evaluation: Evaluation,
    part: Part,
    memory: Memory | None = None,
) -> Iterator[_Done]:
    """Score what the tasks lack: together those with one tokenizer that lack the same."""
    waiting: dict[tuple[Any, ...], list[_Open]] = {}
    for name, task in tasks.items():
        opened = _open(name, task, documents)
        if not opened.missing:
            yield _Done(opened, None)
            continue
        try:
            group = (_tokenizer_digest(task.model), opened.new, opened.missing)
        except MdelError as error:
            yield _Done(opened, error)
            continue
        waiting.setdefault(group, []).append(opened)
    for members in waiting.values():
        with TokenizedDocuments(members[0].task.work_folder) as tokenized:
            yield from _scored(members, documents, tokenized, evaluation, part, memory)


def score_documents(
    model: str | Path, documents: Sequence[tuple[str, str]], evaluation: Evaluation
) -> pa.Table:
    """Return a table of `DOCUMENT_SCHEMA` for (id, text) pairs and a model folder or Hub name."""
    from mdel_assets.training.model_files import load_tokenizer, reading

    tokenizer = reading(load_tokenizer(model), evaluation.special_tokens)
    with Scorer(
        [load_to_score(model, evaluation, Memory.free())], dtype=evaluation.dtype
    ) as scorer:
        (scores,) = scorer.score(
            tokenize(tokenizer, [text for _, text in documents]),
            prefix=prefix_token_id(tokenizer, evaluation.prefix_token),
            max_length=evaluation.max_length,
            stride=evaluation.stride,
        )
    if isinstance(scores, MdelError):
        raise scores
    return documents_table([DocumentSize.of(key, text) for key, text in documents], scores)


def _open(name: str, task: ScoringTask, documents: EvaluationDocuments) -> _Open:
    new = set(documents.place_of) - documents_in(_earlier(task))
    missing = new - documents_in(chunk_files(task.work_folder))
    return _Open(name, task, tuple(sorted(new)), frozenset(missing))


def _earlier(task: ScoringTask) -> list[Path]:
    return [task.previous / DOCUMENTS_NAME] if task.previous else []


def _finish(
    opened: _Open, cells: pa.Table, *, num_scored: int, num_layers: int = 0
) -> ScoringResult:
    task = opened.task
    wanted = pc.unique(cells.column("document_id"))
    num_documents, num_tokens = write_scores(
        task.folder, _scored_already(task, wanted), cells, work_folder=task.work_folder
    )
    return ScoringResult(
        num_documents=num_documents,
        num_tokens=num_tokens,
        num_documents_scored_now=num_scored,
        num_shared_layers=num_layers,
    )


def _scored_already(task: ScoringTask, wanted: pa.Array) -> Iterator[pa.Table]:
    """Yield the stored scores of the documents ``wanted``, some at a time."""
    for path in [*_earlier(task), *chunk_files(task.work_folder)]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_PER_BATCH):
                table = pa.Table.from_batches([batch]).cast(DOCUMENT_SCHEMA)
                yield table.filter(pc.is_in(table.column("document_id"), wanted))


def _scored(
    members: Sequence[_Open],
    documents: EvaluationDocuments,
    tokenized: TokenizedDocuments,
    evaluation: Evaluation,
    part: Part,
    memory: Memory | None,
) -> Iterator[_Done]:
    """Score a part of the documents that all ``members`` lack alike, some models at a time."""
    from mdel_assets.training.model_files import load_tokenizer, reading

    tokenizer = reading(load_tokenizer(members[0].task.model), evaluation.special_tokens)
    try:
        prefix = prefix_token_id(tokenizer, evaluation.prefix_token)
    except MdelError as error:
        yield from (_Done(opened, error) for opened in members)
        return
    tokenized.add(documents.texts(members[0].new), tokenizer)
    left = list(members)
    while left:
        folders = [opened.task.model for opened in left]
        found = load_pack(folders, evaluation, memory or Memory.free())
        tried, left = left[: len(found)], left[len(found) :]
        models, pack = [], []
        for opened, loaded in zip(tried, found, strict=True):
            if isinstance(loaded, MdelError):
                yield _Done(opened, loaded)
            else:
                models.append(loaded)
                pack.append(opened)
        if pack:
            yield from _scored_pack(models, pack, tokenized, prefix, evaluation, part)
        if left:
            # The next pack finds the memory of this one free.
            del found, models, loaded
            give_memory_back()


def _scored_pack(
    models: list[Any],
    pack: list[_Open],
    tokenized: TokenizedDocuments,
    prefix: int,
    evaluation: Evaluation,
    part: Part,
) -> Iterator[_Done]:
    failed: dict[int, MdelError] = {}
    size = _TOKENS_PER_CHUNK[computing_device(models[0]).type]
    chunks = chunks_of(pack[0].new, tokenized.num_tokens, size)[part.number :: part.of]
    chunks = missing_in(chunks, pack[0].missing)
    num_tokens = sum(tokenized.num_tokens[key] for keys in chunks for key in keys)
    progress = scoring_progress(num_tokens * len(pack))
    with Scorer(models, dtype=evaluation.dtype, num_tokens=num_tokens) as scorer:
        num_layers = scorer.num_shared_layers
        _log.info(
            "scoring %d documents under %s, which share %d layers",
            sum(map(len, chunks)),
            ", ".join(opened.name for opened in pack),
            num_layers,
        )
        for keys in chunks:
            found = scorer.score(
                [tokenized.tokens(key) for key in keys],
                prefix=prefix,
                max_length=evaluation.max_length,
                stride=evaluation.stride,
                progress=progress,
            )
            for index, scores in enumerate(found):
                if isinstance(scores, MdelError):
                    failed[index] = scores
                else:
                    table = documents_table([tokenized.sizes[key] for key in keys], scores)
                    keep_chunk(pack[index].task.work_folder, table)
    for index, opened in enumerate(pack):
        yield _Done(opened, failed.get(index), num_layers)


def _tokenizer_digest(model: Path) -> str:
    """Return a digest that is equal for models that read the same tokens for the same text."""
    from mdel_assets.training.model_files import load_tokenizer

    tokenizer = load_tokenizer(model)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else str(model)
    named = f"{content} {tokenizer.eos_token_id} {tokenizer.bos_token_id}"
    return hashlib.sha256(named.encode()).hexdigest()
