"""The steps from token scores to the matrix: each writes one kind of artifact.

They are declared in `kinds.py`; `mdel_assets.line.making` calls them. `ensemble_steps.py` goes on
from here.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.data.steps import held_out_words
from mdel_assets.errors import MdelError
from mdel_assets.evaluation.reported import reported_models, stale_cells, unreported_models
from mdel_assets.experiment.evaluation import WINDOW_SETTINGS
from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.kind import Part, Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import Made, make
from mdel_assets.line.replicates import Replicate, replicates_of, split_key
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.looking_once import looking_once
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.training.time_left import num_parameters, operations_of

if TYPE_CHECKING:
    from mdel_assets.scoring.score_together import ScoringTask

# What a pack of eight models takes, in fp32, for each parameter of one of them.
_SCORING_BYTES = 32
# What of a scoring another one of the same model would not have: some was scored before.
_OF_THIS_TIME = ("num_documents_scored_now", "num_shared_layers")


def score(tasks: Mapping[str, Task]) -> Iterator[tuple[str, Written | MdelError]]:
    """Score models on every evaluation document that they have not been scored on yet.

    Models that share their first layers are scored together. Each one's scores are published as
    soon as they are whole; a model that cannot be scored does not stop the others.
    """
    from mdel_assets.scoring.score_together import score_models

    for key, result in score_models(_to_score(tasks), **_texts_to_score(tasks)):
        if isinstance(result, MdelError):
            yield key, result
        else:
            counts = dataclasses.asdict(result)
            making = {name: counts.pop(name) for name in _OF_THIS_TIME}
            yield key, Written(counts=counts, making=making)


def score_part(tasks: Mapping[str, Task], part: Part) -> Iterator[tuple[str, MdelError | None]]:
    """Score a part of the documents; `score` then finds it in the work folders."""
    from mdel_assets.scoring import score_together

    yield from score_together.score_part(_to_score(tasks), part, **_texts_to_score(tasks))


def wholly_scored(tasks: Mapping[str, Task]) -> list[str]:
    """Return the models of which every document is scored."""
    from mdel_assets.scoring import score_together

    return score_together.wholly_scored(_to_score(tasks), **_texts_to_score(tasks))


def _to_score(tasks: Mapping[str, Task]) -> dict[str, "ScoringTask"]:
    from mdel_assets.scoring.score_together import ScoringTask

    return {
        key: ScoringTask(
            task.lineage.model(key).folder,
            task.stage or task.work_folder,
            task.work_folder,
            task.artifact.folder if _is_reusable(task) else None,
        )
        for key, task in tasks.items()
    }


def _texts_to_score(tasks: Mapping[str, Task]) -> dict[str, Any]:
    lineage = next(iter(tasks.values())).lineage
    folders = {d: lineage.folder("domain_dataset", d) for d in lineage.present_domains()}
    return {"datasets": folders, "evaluation": lineage.experiment.evaluation}


def _is_reusable(task: Task) -> bool:
    """Whether the scores that lie there are of the same model, texts and windows cut alike."""
    old, identity = task.artifact.last_record(), task.identity
    if old is None or old.code_version != identity.code_version or task.artifact.damage(old):
        return False
    label = task.lineage.model(task.key).label
    settings = (*WINDOW_SETTINGS, "max_tokens", "special_tokens")
    same_settings = all(old.config.get(k) == identity.config.get(k) for k in settings)
    return same_settings and old.inputs.get(label) == identity.inputs[label]


def score_side_by_side(
    lineage: Lineage, model_keys: Sequence[str], *, kind: str = "token_scores"
) -> Made:
    """Score models, some at a time in processes of their own where that pays.

    ``kind`` is that of the line or of its further replicates.
    """
    from mdel_assets.machine.side_by_side import Work, run_side_by_side

    missing = [key for key in model_keys if not _is_scored(lineage, kind, key)]
    count = num_scored_at_once(lineage, missing, kind=kind)
    failures: dict[str, MdelError] = {}
    if count > 1:
        parts = [missing[first::count] for first in range(count)]
        work = [
            Work(f"scores {number}/{count}", make, (lineage, kind, part))
            for number, part in enumerate(parts, start=1)
        ]
        for _, outcome in run_side_by_side(work, num_processes=count):
            if outcome.error:
                raise outcome.error
            failures |= outcome.value.failures
    rest = make(lineage, kind, [key for key in model_keys if key not in failures])
    return Made(rest.records, failures | rest.failures)


def _is_scored(lineage: Lineage, kind: str, key: str) -> bool:
    """Whether a model's scores are there; not where it is damaged, which scoring it tells."""
    try:
        return lineage.current(kind, key) is not None
    except MdelError:
        return False


def num_scored_at_once(
    lineage: Lineage, model_keys: Sequence[str], *, kind: str = "token_scores"
) -> int:
    """Return how many processes score models at the same time where that pays."""
    from mdel_assets.machine.side_by_side import num_at_once

    if len(model_keys) < 2:
        return 1
    largest = max(_fp32_bytes(_model(lineage, kind, key).folder) for key in model_keys)
    return num_at_once(
        len(model_keys),
        model_bytes=max(_SCORING_BYTES * num_parameters(lineage), largest),
        num_operations=operations_of(lineage, "token_scores") * len(model_keys) / 2,
    )


def _model(lineage: Lineage, kind: str, key: str) -> Artifact:
    """Return the model that the scores with this key are of, in the line or another replicate."""
    if not lineage.registry[kind].replicate_of:
        return lineage.model(key)
    own, number = split_key(key)
    return Replicate(lineage, number).model(own)


def _fp32_bytes(folder: Path) -> int:
    """Return a model's size in fp32, by its files' headers; 0 where they are not here or broken."""
    try:
        return 4 * sum(tensor.num_elements for tensor in TensorFolder(folder).stored.values())
    except MdelError:
        # Scoring it fetches its files, or says what is wrong with them.
        return 0


def report(task: Task) -> Written:
    """Write one model's perplexity table from its token scores, and every document's sums."""
    import pyarrow.parquet as pq

    from mdel_assets.evaluation.regression import document_sums
    from mdel_assets.scoring.perplexity import read_cells, samples_table, with_samples

    lineage, model_key, stage = task.lineage, task.key, task.folder
    evaluation = lineage.experiment.evaluation
    cells = with_samples(
        read_cells(lineage.required("token_scores", model_key)),
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
    )
    rows = report_rows(lineage, model_key, cells)
    pq.write_table(document_sums(cells), stage / f"{model_key}.documents.parquet")
    pq.write_table(samples_table(cells), stage / _samples_name(model_key))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (stage / f"{model_key}.jsonl").write_text(lines, "utf-8")
    return Written(details={"rows": rows})


def read_reported_cells(lineage: Lineage, model_key: str) -> list[Any]:
    """Return a model's cells, with what its report's bootstrap drew where that lies there."""
    import pyarrow.parquet as pq

    from mdel_assets.scoring.perplexity import read_cells, samples_from

    cells = read_cells(lineage.required("token_scores", model_key))
    report = lineage.artifact("perplexity_report", model_key)
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

    from mdel_assets.evaluation.regression import changes_since
    from mdel_assets.scoring.perplexity import read_cells

    scores = lineage.artifact("token_scores", model_key)
    scores.require()
    artifact = lineage.artifact("perplexity_report", model_key)
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
    from mdel_assets.scoring.perplexity import perplexity_row

    scored = lineage.artifact("token_scores", model_key).require()
    evaluation = lineage.experiment.evaluation
    model_label = lineage.model(model_key).label
    return [
        perplexity_row(
            cell,
            model=name or model_key,
            max_length=scored.config["max_length"],
            model_fingerprint=fingerprint or scored.inputs[model_label],
            dataset_fingerprint=scored.inputs[
                lineage.artifact("domain_dataset", cell.dataset).label
            ],
            num_samples=evaluation.num_bootstrap_samples,
            seed=evaluation.seed,
        )
        for cell in cells
    ]


def make_matrix(task: Task) -> Written:
    """Write all reports in one matrix, which is what a page shows."""
    from mdel_assets.evaluation.matrix_files import write_matrix

    matrix = read_matrix(task.lineage)
    write_matrix(matrix, task.folder)
    counts = {"num_models": len(matrix.models), "num_datasets": len(matrix.datasets)}
    return Written(counts=counts, details={"missing": matrix.missing}, shown=matrix)


@looking_once()
def read_matrix(lineage: Lineage) -> Any:
    """Return the matrix that the present reports and scores make up."""
    from mdel_assets.evaluation.matrix import build_matrix

    models = reported_models(lineage)
    evaluation = lineage.experiment.evaluation
    return build_matrix(
        {
            model: lineage.artifact("perplexity_report", model).require().details["rows"]
            for model in models
        },
        {model: read_reported_cells(lineage, model) for model in models},
        datasets=lineage.present_domains(),
        splits=evaluation.splits,
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
        stale=set(stale_cells(lineage)),
        further=[
            {model: read_reported_cells(replicate, model) for model in reported_models(replicate)}
            for replicate in replicates_of(lineage)[1:]
        ],
        unreported=unreported_models(lineage),
        legend=_legend(lineage),
        notes=[
            *_notes_on_mixtures(lineage, models),
            *_notes_on_searches(lineage, models),
            *_notes_on_text(lineage),
        ],
    )


def _legend(lineage: Lineage) -> dict[str, str]:
    """Return the words that mark each cluster, where domains are clusters."""
    record = (
        lineage.artifact("corpus_clusters").read_record() if lineage.experiment.clusters else None
    )
    if record is None:
        return {}
    words = zip(lineage.experiment.domain_keys, record.details["terms"], strict=True)
    return {key: ", ".join(terms) for key, terms in words}


def _notes_on_mixtures(lineage: Lineage, models: Sequence[str]) -> list[str]:
    """Say of mixtures how many of their weights a token goes through."""
    from mdel_assets.merging.mixtures.cards import active_sentence

    found = []
    for name in lineage.experiment.mixtures:
        record = lineage.artifact("moe_model", name).read_record()
        if Family.MIXTURE.key(name) in models and record:
            told = active_sentence(
                record.details, experts_per_token=record.config["experts_per_token"]
            )
            found.append(f"`mixture-{name}`: {told}")
    return found


def _notes_on_searches(lineage: Lineage, models: Sequence[str]) -> list[str]:
    """Say of merges whose weights were chosen on documents of the matrix where else to look."""
    found = []
    for recipe in lineage.experiment.searched_recipes:
        model = Family.MERGED.key(recipe)
        record = lineage.artifact("searched_merge", recipe).read_record()
        if model not in models or record is None:
            continue
        if shared := record.counts["num_also_evaluated"]:
            found.append(
                f"`{model}`: its weights were chosen on validation text, and {shared} of "
                f"those {record.counts['num_documents']} documents are scored here, too. Judge it "
                f"by test text: `searches/{recipe}/search.md`."
            )
    return found


def _notes_on_text(lineage: Lineage) -> list[str]:
    """Say what to set where the datasets hold out too little to judge by."""
    domains = lineage.present_domains()
    counts = {d: lineage.artifact("domain_dataset", d).require().counts for d in domains}
    advice = held_out_words(lineage, counts)
    return [advice] if advice else []
