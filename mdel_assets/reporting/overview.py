"""What was studied, as a list of terms with their descriptions."""

from mdel_assets.evaluation.matrix import Matrix
from mdel_assets.evaluation.sample_sizes import total_label
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.line.kind import Input
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.cards import base_model
from mdel_assets.reporting.made_of import Records
from mdel_assets.reporting.numbers import count_in_words
from mdel_assets.reporting.trainings import models_in_words
from mdel_assets.training.results import SeedResult

Facts = list[tuple[str, str]]


def facts_of(lineage: Lineage, matrix: Matrix, records: Records) -> Facts:
    """Return terms and descriptions; words in backticks are names."""
    experiment, evaluation = lineage.experiment, lineage.experiment.evaluation
    split = matrix.splits[0]
    judged = (
        f"held-out text of each domain, `{split}`: {total_label(matrix, split)}, in windows of "
        f"up to {evaluation.max_length:,} tokens; every token counts once"
    )
    facts = [
        ("Seed model", _seed(lineage, records)),
        ("Experts", _experts(lineage)),
        ("Models", f"the seed, {models_in_words(lineage)}"),
        ("Judged on", judged),
    ]
    if experiment.replicates > 1:
        facts.append(("Replicates", f"everything was trained {experiment.replicates} times"))
    facts += [("Domain " + domain, words) for domain, words in matrix.legend.items()]
    return facts


def _seed(lineage: Lineage, records: Records) -> str:
    record = records.get(Input("seed_model"))
    if record is None:
        return "not made"
    result = SeedResult.of(record.details)
    parameters = f"{count_in_words(result.num_parameters)} parameters"
    told = f"`{result.architecture}`, {parameters} in {result.num_layers} layers"
    if base := base_model(lineage.experiment):
        commit = record.config.get("commit")
        return f"`{base}`{f' at commit `{commit}`' if commit else ''}: {told}"
    if result.history:
        tokens = count_in_words(result.history.num_tokens)
        return f"{told}, pretrained for this experiment on {tokens} tokens of all domains"
    return told


def _experts(lineage: Lineage) -> str:
    training = lineage.experiment.training
    layers = training.trained_layers
    which = "all layers" if layers == "all" else f"layers {_listed(layers)}"
    if training.adapter:
        which = f"adapters of rank {training.adapter.rank} in {which}"
    general = lineage.experiment.mixture.general_ratio
    mixed = f", mixed with {general:g} times as much general text" if general else ""
    return (
        f"{len(lineage.present_domains())} branch from the seed; each trains {which} on "
        f"{_length(training)} of its own domain{mixed}, learning rate "
        f"{training.learning_rate:g}, {training.batch_size} blocks of {training.block_size} tokens "
        f"a step"
    )


def _length(training: ExpertTraining) -> str:
    if training.num_epochs is not None:
        return f"{training.num_epochs:g} epochs"
    return f"{count_in_words(training.num_tokens_read)} tokens"


def _listed(layers: object) -> str:
    return ", ".join(map(str, layers)) if isinstance(layers, tuple | list) else str(layers)
