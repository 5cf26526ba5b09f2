"""Score every ensemble on every evaluation document, from the experts' token scores alone.

A cell's prior is learned on the validation documents of the same dataset, as in Branch-Train-Merge.
If the cell itself is validation, its documents are halved by their ids and each half uses the prior
learned on the other, so no document influences its own prior.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.data.text_batches import text_batches
from mdel_assets.errors import ScoringError
from mdel_assets.evaluation.ensemble import (
    Array,
    keep_best,
    log_posterior,
    mix,
    moving_average_prior,
    prefixes,
    reading_places,
    spread_readings,
)
from mdel_assets.evaluation.router import ROUTERS, Router
from mdel_assets.experiment.model_keys import Family
from mdel_assets.scoring.evaluation_documents import beginning
from mdel_assets.scoring.perplexity import Cell, read_cells
from mdel_assets.scoring.token_scores import DOCUMENTS_NAME

_DOCUMENTS_PER_BATCH = 256
_PREFIX = Family.ENSEMBLE.key("")
_RANDOM = "random-split-"
_RANDOM_KEPT = ("ensemble-uniform", "ensemble-posterior-all")

# Shapes in names: E experts, T tokens of a document, D documents, R readings of a prefix.


@dataclasses.dataclass(frozen=True)
class _Document:
    """The inputs to the experts' weights on one document, besides their log-probabilities.

    ``label`` is the number of its domain's expert; None if no expert is of its domain.
    """

    label: int | None
    readings_RE: Mapping[str, NDArray[np.float32]]


def ensemble_cells(
    scores: Mapping[str, Path],
    datasets: Mapping[str, Path],
    *,
    router: Router,
    tokenizer: Any,
    prior_decay: float,
    max_bytes: int | None = None,
) -> dict[str, list[Cell]]:
    """Return each ensemble's cells, by its name.

    ``scores`` maps each expert's domain to its token-scores folder, in the router's order;
    ``datasets`` maps domains to dataset folders. ``tokenizer`` is the experts' common one, and
    reads special tokens as it did when they were scored. Of a text longer than ``max_bytes`` only
    the beginning was scored.

    Raises:
        ScoringError: the experts were not scored on the same documents and tokens.

    """
    if router.domains != list(scores):
        raise ScoringError(
            f"The router knows the domains {', '.join(router.domains)}, but the experts are of "
            f"{', '.join(scores)}. Materialize domain_router again."
        )
    cells = read_cells(next(iter(scores.values())))
    documents = _read_documents(cells, datasets, router, tokenizer, max_bytes)
    return _weigh(scores, cells, documents, prior_decay=prior_decay)


def random_split_cells(scores: Mapping[str, Path], *, prior_decay: float) -> dict[str, list[Cell]]:
    """Return the cells of the random split's ensembles, by their names.

    ``scores`` maps the random split's numbers to their experts' token-scores folders. No router can
    distinguish randomly dealt parts, so there are only a uniform and a posterior ensemble.
    """
    cells = read_cells(next(iter(scores.values())))
    unknown = {key: _Document(None, {}) for cell in cells for key in cell.document_ids}
    found = _weigh(scores, cells, unknown, prior_decay=prior_decay)
    return {name.replace(_PREFIX, _PREFIX + _RANDOM): found[name] for name in _RANDOM_KEPT}


def _weigh(
    scores: Mapping[str, Path],
    cells: list[Cell],
    documents: Mapping[str, _Document],
    *,
    prior_decay: float,
) -> dict[str, list[Cell]]:
    """Mix the experts on every document with all weights that ``documents`` allows."""
    priors = _priors(cells, scores, decay=prior_decay)
    places: dict[str, list[tuple[int, int]]] = {}
    for number, cell in enumerate(cells):
        for row, key in enumerate(cell.document_ids):
            places.setdefault(key, []).append((number, row))
    found: dict[str, list[Array]] = {}
    for key, log_p_ET in _lockstep(scores):
        if key not in places:
            continue
        for name, weights in _label_free_weights(documents[key], log_p_ET).items():
            nll = -float(mix(log_p_ET, weights).sum())
            for number, row in places[key]:
                _slot(found, name, cells)[number][row] = nll
        for number, row in places[key]:
            posterior_ET = log_posterior(log_p_ET, priors[number, _half(key)])
            for name, weights in _by_number_kept("posterior", posterior_ET).items():
                _slot(found, name, cells)[number][row] = -float(mix(log_p_ET, weights).sum())
    return {
        name: [dataclasses.replace(c, nll_nats_D=n) for c, n in zip(cells, nlls, strict=True)]
        for name, nlls in sorted(found.items(), key=lambda item: _order(item[0]))
    }


def num_experts_run(name: str, num_experts: int) -> int:
    """Return how many experts run per token for an ensemble, or for one model.

    A posterior needs every expert's probability of the prefix, even if it mixes only a few.
    """
    if not name.startswith(_PREFIX) or name == f"{_PREFIX}label":
        return 1
    kept = name.rsplit("-top", 1)
    return num_experts if "posterior" in name or len(kept) == 1 else int(kept[1])


def _label_free_weights(document: _Document, log_p_ET: Array) -> dict[str, Array]:
    """Return the (E, T) log-weights of every ensemble that needs no prior of the cell.

    Raises:
        ScoringError: the routers read other tokens than those of the log-probabilities.

    """
    num_experts, num_tokens = log_p_ET.shape
    uniform_E = np.full(num_experts, -np.log(num_experts))
    of_label_E = uniform_E
    if document.label is not None:
        of_label_E = np.full(num_experts, -np.inf)
        of_label_E[document.label] = 0.0
    found = {
        f"{_PREFIX}uniform": np.broadcast_to(uniform_E[:, None], log_p_ET.shape),
        f"{_PREFIX}posterior-all-without-prior": log_posterior(log_p_ET, uniform_E),
        f"{_PREFIX}label": np.broadcast_to(of_label_E[:, None], log_p_ET.shape),
    }
    for router, readings_RE in document.readings_RE.items():
        if len(readings_RE) != len(reading_places(num_tokens)):
            raise ScoringError(
                "The routers read other tokens than were scored. Materialize token_scores of all "
                "experts again."
            )
        weights_ET = spread_readings(readings_RE.astype(np.float64), num_tokens)
        found |= _by_number_kept(router, weights_ET)
    return found


def _by_number_kept(family: str, weights_ET: Array) -> dict[str, Array]:
    found = {f"{_PREFIX}{family}-all": weights_ET}
    for k in (1, 2):
        if k < len(weights_ET):
            found[f"{_PREFIX}{family}-top{k}"] = keep_best(weights_ET, k)
    return found


def _order(name: str) -> tuple[int, int]:
    """Sort ensembles by family, then by how many experts they keep."""
    family, _, kept = name.removeprefix(_PREFIX).partition("-")
    families = ("uniform", "label", "posterior", *ROUTERS)
    return families.index(family), ("", "top1", "top2", "all", "all-without-prior").index(kept)


def _slot(found: dict[str, list[Array]], name: str, cells: list[Cell]) -> list[Array]:
    if name not in found:
        found[name] = [np.full(len(cell.document_ids), np.nan) for cell in cells]
    return found[name]


def _half(document_id: str) -> int:
    return int(document_id[-1], 16) & 1


def _priors(
    cells: list[Cell], scores: Mapping[str, Path], *, decay: float
) -> dict[tuple[int, int], Array]:
    """Return the log-prior over experts by number of a cell and half of its documents."""
    per_expert = [
        {(c.dataset, c.split): c.nll_nats_D for c in read_cells(folder)}
        for folder in scores.values()
    ]
    own = {(cell.dataset, cell.split): cell for cell in cells}
    found = {}
    for number, cell in enumerate(cells):
        twin = (cell.dataset, cell.split.replace("test_", "validation_"))
        source = twin if twin in own else (cell.dataset, cell.split)
        nll_DE = np.stack([nll[source] for nll in per_expert], axis=1)
        halves_D = np.array([_half(key) for key in own[source].document_ids], np.int64)
        for half in (0, 1):
            is_own = source == (cell.dataset, cell.split)
            taken = nll_DE[halves_D != half] if is_own else nll_DE
            found[number, half] = moving_average_prior(taken, decay=decay)
    return found


def _read_documents(
    cells: list[Cell],
    datasets: Mapping[str, Path],
    router: Router,
    tokenizer: Any,
    max_bytes: int | None,
) -> dict[str, _Document]:
    """Return, per document, its label and the routers' weights for its prefixes."""
    found: dict[str, _Document] = {}
    for cell in cells:
        wanted = pa.array(sorted(set(cell.document_ids) - found.keys()), pa.string())
        path = datasets[cell.dataset] / f"{cell.split}.parquet"
        table = pq.read_table(path, columns=["document_id", "domain"])
        rows = np.flatnonzero(pc.is_in(table.column("document_id"), wanted).to_numpy())
        keys, labels = (
            table.column(n).take(pa.array(rows)).to_pylist() for n in table.column_names
        )
        texts = (beginning(text, max_bytes) for text in SplitDocuments.of(path).texts(rows))
        documents = zip(keys, labels, texts, strict=True)
        for batch in text_batches(documents, length_of=lambda document: len(document[2])):
            found |= _route(batch, router, tokenizer)
    return found


def _route(
    batch: Sequence[tuple[str, str, str]], router: Router, tokenizer: Any
) -> dict[str, _Document]:
    keys, labels, texts = zip(*batch, strict=True)
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    starts = [[first for first, _ in offsets] for offsets in encoded["offset_mapping"]]
    read = [prefixes(text, own) for text, own in zip(texts, starts, strict=True)]
    flat = [prefix for own in read for prefix in own]
    ends = np.cumsum([len(own) for own in read])
    readings: dict[str, list[NDArray[np.float32]]] = {}
    for name in ROUTERS:
        empty = np.zeros((0, len(router.domains)))
        weights = (router.log_weights(flat, name) if flat else empty).astype(np.float32)
        readings[name] = np.split(weights, ends[:-1])
    numbers = {domain: number for number, domain in enumerate(router.domains)}
    return {
        key: _Document(numbers.get(labels[i]), {name: readings[name][i] for name in ROUTERS})
        for i, key in enumerate(keys)
    }


def _lockstep(scores: Mapping[str, Path]) -> Iterator[tuple[str, Array]]:
    """Yield each document's id and the (E, T) log-probabilities of its tokens."""
    columns = ["document_id", "log_probabilities"]
    readers = [
        pq.ParquetFile(folder / DOCUMENTS_NAME).iter_batches(_DOCUMENTS_PER_BATCH, columns=columns)
        for folder in scores.values()
    ]
    for batches in zip(*readers, strict=True):
        keys = batches[0].column("document_id")
        lists = [batch.column("log_probabilities") for batch in batches]
        offsets = lists[0].offsets.to_numpy()
        for batch, own in zip(batches, lists, strict=True):
            same_tokens = np.array_equal(own.offsets.to_numpy(), offsets)
            if not same_tokens or batch.column("document_id") != keys:
                raise ScoringError(
                    "The experts were scored on different documents or tokens. Materialize "
                    "token_scores of all experts again."
                )
        values_ES = np.stack([own.values.to_numpy() for own in lists]).astype(np.float64)
        for row, key in enumerate(keys.to_pylist()):
            yield key, values_ES[:, offsets[row] : offsets[row + 1]]
