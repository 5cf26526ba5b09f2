"""The prices of scores, reports, the matrix, routers and ensembles."""

import math

from mdel_assets.data.text_sizes import Amount
from mdel_assets.evaluation.judged_models import JudgedModel, judged_model
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.price import Pace, Price
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# As `score_together` packs them.
_MODELS_PER_PACK = 8
_TOKENS_PER_BATCH, _LOGITS_PER_TOKEN = 2048, 4096
# What zstd makes of a token's log-probability; a document's other columns; its place in a cell.
_SCORE_BYTES, _DOCUMENT_BYTES, _CELL_BYTES = 3.45, 130.0, 22.0
# The bootstrap's draw of one document, in seconds; what is kept of a draw, and of a document.
_SECONDS_PER_DRAW, _BYTES_PER_SAMPLE, _BYTES_PER_SUM = 2e-8, 9.7, 50.0
# The charts of the matrix grow with its rows, up to a size.
_CHARTS_BYTES, _CHART_BYTES_PER_ROW, _MAX_ROWS_SHOWN = 50_000.0, 2_750.0, 300
_ENSEMBLE_BYTES = 260_000.0
# Documents whose sizes are read from files that are there.
_MAX_COUNTED = 1_000_000
# The router's features and directions, in fp32.
_FEATURES, _DIRECTIONS = 1 << 16, 100
_SECONDS_PER_TEXT = 2.5e-3
_TOKENIZED_PER_SECOND = 2.5e6


def of_scores(sizes: Sizes, key: str) -> Price:
    """Return the price of one model's scores."""
    experiment, judged = sizes.experiment, judged_model(sizes, key)
    evaluation = experiment.evaluation
    amount = evaluated(sizes)
    tokens = amount.num_bytes * judged.tokens_per_byte
    length = min(float(evaluation.max_length), tokens / max(1.0, amount.num_documents))
    # With a stride, windows after a document's first read what comes before their new tokens again.
    first = min(tokens, evaluation.max_length * amount.num_documents)
    again = evaluation.max_length / (evaluation.stride or evaluation.max_length)
    read = first + (tokens - first) * again
    is_other = Family.REFERENCE.has(key) or Family.MIXTURE.has(key)
    is_like_seed = not is_other and judged.depth == 1.0
    others = math.ceil(len(experiment.model_keys) / sizes.num_processes)
    pack = min(_MODELS_PER_PACK, others) if is_like_seed else 1
    cells = sum(len(splits) for splits in sizes.text.datasets.values())
    disk = _SCORE_BYTES * tokens + _DOCUMENT_BYTES * amount.num_documents
    return Price(
        num_tokens=tokens,
        operations=judged.forward(read, length=max(2, round(length)), num_together=pack),
        disk_bytes=disk + _CELL_BYTES * _num_in_cells(sizes) + RECORD_BYTES / 2 + cells,
        memory_bytes=_scoring_memory(sizes, key, judged, pack),
        core_seconds=0.3 + amount.num_bytes / _TOKENIZED_PER_SECOND / pack,
        pace=Pace("scoring", evaluation.max_length, evaluation.dtype),
        config=judged.config,
    )


def of_report(sizes: Sizes, key: str) -> Price:
    """Return the price of one model's report."""
    samples = float(sizes.experiment.evaluation.num_bootstrap_samples)
    documents = _num_in_cells(sizes)
    disk = _BYTES_PER_SAMPLE * samples * _num_cells(sizes) + _BYTES_PER_SUM * documents
    return Price(
        disk_bytes=disk + 8_000.0,
        core_seconds=0.02 + 2 * _SECONDS_PER_DRAW * samples * documents,
    )


def of_matrix(sizes: Sizes, key: str) -> Price:
    """Return the price of the matrix with its charts."""
    models = len(sizes.experiment.model_keys)
    rows = models * _num_cells(sizes)
    return Price(
        disk_bytes=_CHARTS_BYTES + _CHART_BYTES_PER_ROW * min(rows, _MAX_ROWS_SHOWN) + 250.0 * rows,
        core_seconds=2.0 + 0.05 * models + 0.003 * rows,
    )


def of_router(sizes: Sizes, key: str) -> Price:
    """Return the price of the routers."""
    count = len(sizes.domains)
    wanted = sizes.experiment.evaluation.ensemble.documents_per_domain(count)
    texts = sum(
        min(float(wanted), splits["train"].num_documents) for splits in sizes.text.own.values()
    )
    stored = 4.0 * _FEATURES * (_DIRECTIONS + count + 1)
    return Price(
        disk_bytes=stored + RECORD_BYTES,
        memory_bytes=16 * stored,
        core_seconds=2.5 + _SECONDS_PER_TEXT * texts,
    )


def of_ensembles(sizes: Sizes, key: str) -> Price:
    """Return the price of experts weighed together; it runs no model."""
    tokens = evaluated(sizes).num_bytes * sizes.tokens_per_byte
    experts = len(sizes.domains)
    return Price(
        disk_bytes=_ENSEMBLE_BYTES,
        memory_bytes=250e6 + 16.0 * tokens,
        core_seconds=2.0 + 2e-7 * tokens * experts,
    )


def of_sweep(sizes: Sizes, key: str) -> Price:
    """Return the price of the sweep's table and chart."""
    return Price(disk_bytes=100_000.0, core_seconds=1.0)


def evaluated(sizes: Sizes) -> Amount:
    """Return the documents that each model is scored on; one that several splits hold counts once.

    Of each role's documents, the splits that mix domains draw at random.
    """
    evaluation = sizes.experiment.evaluation
    if (counted := _counted(sizes)) is not None:
        return counted
    total = Amount()
    for role in ("validation", "test"):
        pool = sum((own[f"{role}_domain"] for own in sizes.text.own.values()), Amount())
        if not pool.num_documents:
            continue
        left = 1.0
        if f"{role}_domain" in evaluation.splits:
            drawn = sum(
                _drawn(splits[f"{role}_domain"], evaluation).num_documents
                for splits in sizes.text.datasets.values()
            )
            left *= 1.0 - drawn / pool.num_documents
        if f"{role}_pile" in evaluation.splits:
            for splits in sizes.text.datasets.values():
                drawn = _drawn(splits[f"{role}_pile"], evaluation).num_documents
                left *= 1.0 - min(1.0, drawn / pool.num_documents)
        distinct = pool.times(1.0 - left)
        longest = evaluation.max_document_bytes
        if longest is not None and distinct.num_documents:
            most = distinct.num_documents * longest
            distinct = Amount(distinct.num_documents, min(distinct.num_bytes, most))
        total += distinct
    return total


def _counted(sizes: Sizes) -> Amount | None:
    """Return the evaluated documents of datasets that are there; None where they are too many.

    None also where datasets are to be made anew.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from mdel_assets.scoring.evaluation_documents import evaluation_documents

    evaluation = sizes.experiment.evaluation
    folders = {d: sizes.lineage.folder("domain_dataset", d) for d in sizes.domains}
    files = [folders[d] / f"{name}.parquet" for d in folders for name in evaluation.splits]
    amounts = [splits[n] for splits in sizes.text.datasets.values() for n in evaluation.splits]
    if not sizes.text.are_datasets_there:
        return None
    is_much = sum(amount.num_documents for amount in amounts) > _MAX_COUNTED
    if is_much or not all(file.is_file() for file in files):
        return None
    found = evaluation_documents(folders, evaluation)
    rows_of: dict[int, list[int]] = {}
    for file, row in found.place_of.values():
        rows_of.setdefault(file, []).append(row)
    longest = np.inf if found.max_bytes is None else found.max_bytes
    num_bytes = 0
    for file, rows in rows_of.items():
        column = pq.read_table(found.files[file], columns=["num_bytes"]).column(0).to_numpy()
        num_bytes += int(np.minimum(column[rows], longest).sum())
    return Amount(float(len(found)), float(num_bytes))


def _drawn(amount: Amount, evaluation: Evaluation) -> Amount:
    """Return what of a split is evaluated."""
    share = min(1.0, evaluation.max_documents / max(amount.num_documents, 1.0))
    found = amount.times(share)
    if evaluation.max_bytes is not None and found.num_bytes > evaluation.max_bytes:
        return found.times(evaluation.max_bytes / found.num_bytes)
    return found


def _num_cells(sizes: Sizes) -> int:
    return len(sizes.domains) * len(sizes.experiment.evaluation.splits)


def _num_in_cells(sizes: Sizes) -> float:
    evaluation = sizes.experiment.evaluation
    return sum(
        _drawn(splits[name], evaluation).num_documents
        for splits in sizes.text.datasets.values()
        for name in evaluation.splits
    )


def _scoring_memory(sizes: Sizes, key: str, judged: JudgedModel, pack: int) -> float:
    """Return the peak of scoring a pack of models on a processor, besides libraries.

    Models use the same memory for tensors that are equal in their files, and keep half precision.
    """
    model, evaluation = judged.model, sizes.experiment.evaluation
    training = sizes.experiment.training
    others = 0.0
    if pack > 1:
        changed = model.trained(training.trained_layers, training.adapter).num_changed
        others = float((pack - 1) * changed)
    rows = max(1, math.ceil(_TOKENS_PER_BATCH / evaluation.max_length))
    states: float = 4.0 * rows * evaluation.max_length * model.hidden_size
    logits = 4.0 * _TOKENS_PER_BATCH * _LOGITS_PER_TOKEN
    weights = judged.num_parameters + others
    return kept_bytes_per_weight(sizes, key) * weights + 12 * states + 2 * logits


def kept_bytes_per_weight(sizes: Sizes, key: str) -> float:
    """Return the bytes of a weight that is widened where it is used: as stored, or fp32's."""
    source = sizes.reference(key.partition("-")[2]) if Family.REFERENCE.has(key) else sizes
    return 4.0 if sizes.is_on_gpu else max(2.0, min(4.0, source.bytes_per_parameter))
