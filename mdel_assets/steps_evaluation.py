"""The steps from token scores to the matrix, one function per asset, without Dagster.

They go on where `steps.py` ends, and work alike; `steps_ensembles.py` goes on from here.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from mdel_assets.artifacts import Identity, Record, looking_once
from mdel_assets.errors import MdelError
from mdel_assets.lineage import WINDOW_SETTINGS, Lineage
from mdel_assets.makers import makes
from mdel_assets.steps import current_record, held_out_words
from mdel_assets.time_left import operations_of

# What a pack of eight models takes, in fp32, for each parameter of one of them.
_SCORING_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Scored:
    """Records of models that were scored, and of the others why they could not be."""

    records: dict[str, Record]
    failures: dict[str, str]


@makes("token_scores")
def score(lineage: Lineage, model_keys: Sequence[str]) -> Scored:
    """Score models on every evaluation document that they have not been scored on yet.

    Models that share their first layers are scored together. Each one's scores are published as
    soon as they are whole; a model that cannot be scored does not stop the others.
    """
    from mdel_assets.evaluation.score_together import ScoringTask, score_models

    scored = Scored({}, {})
    with ExitStack() as stack:
        identities, tasks = {}, {}
        for key in model_keys:
            try:
                if current := current_record(lineage, "token_scores", key):
                    scored.records[key] = current
                    continue
                identity = identities[key] = lineage.identity("token_scores", key)
            except MdelError as error:
                scored.failures[key] = str(error)
                continue
            artifact = lineage.store.scores(key)
            is_reusable = _is_reusable(lineage, artifact.last_record(), identity, key)
            tasks[key] = ScoringTask(
                lineage.store.model(key).folder,
                stack.enter_context(artifact.staging()),
                lineage.store.work_folder(f"scores-{key}-{identity.fingerprint}"),
                artifact.folder if is_reusable else None,
            )
        datasets = {d: lineage.store.dataset(d).folder for d in lineage.present_domains()}
        evaluation = lineage.experiment.evaluation
        for key, result in score_models(tasks, datasets=datasets, evaluation=evaluation):
            if isinstance(result, MdelError):
                scored.failures[key] = str(result)
                continue
            scored.records[key] = lineage.store.scores(key).publish(
                tasks[key].folder, identities[key], counts=dataclasses.asdict(result)
            )
            shutil.rmtree(tasks[key].work_folder)
    return scored


def score_side_by_side(lineage: Lineage, model_keys: Sequence[str]) -> Scored:
    """Score models as `score` does, some at a time in processes of their own where that pays."""
    from mdel_assets.engines.side_by_side import Work, run_side_by_side

    missing = [key for key in model_keys if not _is_scored(lineage, key)]
    count = _num_scored_at_once(lineage, len(missing))
    failures: dict[str, str] = {}
    if count > 1:
        parts = [missing[first::count] for first in range(count)]
        work = [Work(f"scores {n + 1}/{count}", score, (lineage, p)) for n, p in enumerate(parts)]
        for _, outcome in run_side_by_side(work, num_processes=count):
            if outcome.error:
                raise outcome.error
            failures |= outcome.value.failures
    rest = score(lineage, [key for key in model_keys if key not in failures])
    return Scored(rest.records, failures | rest.failures)


def _is_scored(lineage: Lineage, key: str) -> bool:
    """Whether a model's scores are there; not where it is damaged, which `score` tells."""
    try:
        return lineage.current("token_scores", key) is not None
    except MdelError:
        return False


def _num_scored_at_once(lineage: Lineage, num_models: int) -> int:
    from mdel_assets.engines.side_by_side import num_at_once

    if num_models < 2:
        return 1
    num_parameters = lineage.store.seed_model().require().details["num_parameters"]
    return num_at_once(
        num_models,
        model_bytes=_SCORING_BYTES * num_parameters,
        num_operations=operations_of(lineage, "token_scores") * num_models / 2,
    )


@makes("perplexity_report")
def report(lineage: Lineage, model_key: str) -> Record:
    """Write one model's perplexity table from its token scores, and every document's sums."""
    import pyarrow.parquet as pq

    from mdel_assets.evaluation.perplexity import read_cells, samples_table, with_samples
    from mdel_assets.evaluation.regression import document_sums

    if current := current_record(lineage, "perplexity_report", model_key):
        return current
    identity = lineage.identity("perplexity_report", model_key)
    evaluation = lineage.experiment.evaluation
    cells = with_samples(
        read_cells(lineage.store.scores(model_key).folder),
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
    )
    rows = report_rows(lineage, model_key, cells)
    artifact = lineage.store.report(model_key)
    with artifact.staging() as stage:
        pq.write_table(document_sums(cells), stage / f"{model_key}.documents.parquet")
        pq.write_table(samples_table(cells), stage / _samples_name(model_key))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (stage / f"{model_key}.jsonl").write_text(lines, "utf-8")
        return artifact.publish(stage, identity, details={"rows": rows})


def read_reported_cells(lineage: Lineage, model_key: str) -> list[Any]:
    """Return a model's cells, with what its report's bootstrap drew where that lies there."""
    import pyarrow.parquet as pq

    from mdel_assets.evaluation.perplexity import read_cells, samples_from

    cells = read_cells(lineage.store.scores(model_key).folder)
    report = lineage.store.report(model_key)
    samples = report.folder / _samples_name(model_key)
    # A report of other scores, or one that was made before these were kept, says nothing of them.
    if not samples.exists() or lineage.current("perplexity_report", model_key) is None:
        return cells
    return samples_from(pq.read_table(samples), cells)


def _samples_name(model_key: str) -> str:
    return f"{model_key}.samples.parquet"


def changes_since_last_report(lineage: Lineage, model_key: str) -> list[Any]:
    """Return how each cell of a model changed since its report was last made; none without one."""
    import pyarrow.parquet as pq

    from mdel_assets.evaluation.perplexity import read_cells
    from mdel_assets.evaluation.regression import changes_since

    scores = lineage.store.scores(model_key)
    scores.require()
    artifact = lineage.store.report(model_key)
    sums = artifact.folder / f"{model_key}.documents.parquet"
    record = artifact.last_record()
    if record is None or artifact.damage(record) or not sums.exists():
        return []
    evaluation = lineage.experiment.evaluation
    return changes_since(
        pq.read_table(sums),
        read_cells(scores.folder),
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
    )


def report_rows(
    lineage: Lineage, model_key: str, cells: Sequence[Any], *, name: str = "", fingerprint: str = ""
) -> list[Any]:
    """Return the report's rows of ``cells``: the model's own, or under another name."""
    from mdel_assets.evaluation.perplexity import perplexity_row

    scored = lineage.store.scores(model_key).require()
    evaluation = lineage.experiment.evaluation
    model_label = lineage.store.model(model_key).label
    return [
        perplexity_row(
            cell,
            model=name or model_key,
            max_length=scored.config["max_length"],
            model_fingerprint=fingerprint or scored.inputs[model_label],
            dataset_fingerprint=scored.inputs[lineage.store.dataset(cell.dataset).label],
            num_samples=evaluation.num_bootstrap_samples,
            seed=evaluation.seed,
        )
        for cell in cells
    ]


@makes("perplexity_matrix", has_key=False)
def make_matrix(lineage: Lineage) -> tuple[Record, Any]:
    """Write all reports in one matrix; return its record and what `read_matrix` returns."""
    from mdel_assets.evaluation.matrix import write_matrix

    current = current_record(lineage, "perplexity_matrix")
    # Before anything is read: what another run makes meanwhile leaves a matrix that is stale.
    identity = lineage.identity("perplexity_matrix")
    matrix = read_matrix(lineage)
    if current:
        return current, matrix
    artifact = lineage.store.matrix()
    with artifact.staging() as stage:
        write_matrix(matrix, stage)
        counts = {"num_models": len(matrix.models), "num_datasets": len(matrix.datasets)}
        details = {"missing": matrix.missing}
        return artifact.publish(stage, identity, counts=counts, details=details), matrix


@looking_once()
def read_matrix(lineage: Lineage) -> Any:
    """Return the matrix that the present reports and scores make up."""
    from mdel_assets.evaluation.matrix import build_matrix

    models = lineage.reported_models()
    evaluation = lineage.experiment.evaluation
    return build_matrix(
        {model: lineage.store.report(model).require().details["rows"] for model in models},
        {model: read_reported_cells(lineage, model) for model in models},
        datasets=lineage.present_domains(),
        splits=evaluation.splits,
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
        stale=set(lineage.stale_cells()),
        unreported=[key for key in lineage.present_models() if key not in models],
        legend=_legend(lineage),
        notes=[*_notes_on_searches(lineage, models), *_notes_on_text(lineage)],
    )


def _legend(lineage: Lineage) -> dict[str, str]:
    """Return the words that mark each cluster, where domains are clusters."""
    record = lineage.store.clusters().read_record() if lineage.experiment.clusters else None
    if record is None:
        return {}
    words = zip(lineage.experiment.domain_keys, record.details["terms"], strict=True)
    return {key: ", ".join(terms) for key, terms in words}


def _notes_on_searches(lineage: Lineage, models: Sequence[str]) -> list[str]:
    """Say of merges whose weights were chosen on documents of the matrix where else to look."""
    found = []
    for recipe in lineage.experiment.searched_recipes:
        search = lineage.store.search(recipe)
        record = search.read_record()
        if f"merged-{recipe}" not in models or record is None:
            continue
        if shared := record.counts["num_also_evaluated"]:
            found.append(
                f"`merged-{recipe}`: its weights were chosen on validation text, and {shared} of "
                f"those {record.counts['num_documents']} documents are scored here, too. Judge it "
                f"by test text: `searches/{recipe}/search.md`."
            )
    return found


def _notes_on_text(lineage: Lineage) -> list[str]:
    """Say what to set where the datasets hold out too little to judge by."""
    records = {d: lineage.store.dataset(d).require() for d in lineage.present_domains()}
    advice = held_out_words(lineage, records)
    return [advice] if advice else []


def _is_reusable(lineage: Lineage, old: Record | None, identity: Identity, model_key: str) -> bool:
    """Whether scores of ``old`` are of the same model, texts and windows cut alike."""
    if old is None or old.code_version != identity.code_version:
        return False
    if lineage.store.scores(model_key).damage(old):
        return False
    label = lineage.store.model(model_key).label
    settings = (*WINDOW_SETTINGS, "max_tokens", "special_tokens")
    same_settings = all(old.config.get(k) == identity.config.get(k) for k in settings)
    return same_settings and old.inputs.get(label) == identity.inputs[label]
