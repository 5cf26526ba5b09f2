"""The kinds of artifact from a corpus to its datasets."""

from collections.abc import Collection, Sequence
from typing import Any

from mdel_assets.data import prices, steps
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.kind import Input, Kind
from mdel_assets.line.lineage import Lineage


def shard_keys(experiment: Experiment) -> Sequence[str]:
    """The keys of the corpus's shards.

    Raises:
        ExperimentError: a glob of the experiment matches nothing.

    """
    return [shard.key for shard in experiment.shards()]


def domain_keys(experiment: Experiment) -> Sequence[str]:
    """The keys of the experiment's domains."""
    return experiment.domain_keys


def absent_domains(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    """Say why each of the ``domains`` that the corpus lacks is absent."""
    return {key: f"absent: the corpus has no training document of '{key}'" for key in domains}


def datasets(experiment: Experiment) -> list[Input]:
    """Return the dataset of every domain."""
    return [Input("domain_dataset", key) for key in experiment.domain_keys]


def _is_unlabelled(experiment: Experiment) -> bool:
    return experiment.clusters is not None


def _reading(lineage: Lineage, key: str) -> dict[str, Any]:
    """Return how a shard's records are read."""
    experiment = lineage.experiment
    reading = experiment.source.reading(is_labelled=not experiment.clusters)
    if experiment.clusters:
        return reading
    return reading | {"domains": [domain.made_of() for domain in experiment.domain_table]}


def _clustering(lineage: Lineage, key: str) -> dict[str, Any]:
    clusters = lineage.experiment.clusters
    assert clusters
    return _reading(lineage, key) | {"domains": clusters.made_of()}


def _assembling(lineage: Lineage, key: str) -> dict[str, Any]:
    experiment = lineage.experiment
    return {
        "domain": key,
        "mixture": experiment.mixture.made_of(),
        "roles": {shard.key: shard.role for shard in experiment.shards()},
        "holdout_fraction": experiment.source.holdout_fraction,
    }


def _first_shard(experiment: Experiment, key: str) -> list[Input]:
    return [Input("raw_pile_shard", shard_keys(experiment)[0])]


def _shard_and_clusters(experiment: Experiment, key: str) -> list[Input]:
    clusters = [Input("corpus_clusters")] if experiment.clusters else []
    return [Input("raw_pile_shard", key), *clusters]


def _all_documents(experiment: Experiment, key: str) -> list[Input]:
    return [Input("shard_documents", shard) for shard in shard_keys(experiment)]


KINDS = (
    Kind(
        "raw_pile_shard",
        place="shards/{key}",
        code_version="1",
        keys=shard_keys,
        current=steps.current_shard,
        write=steps.fetch_raw_shard,
        price=prices.of_shard,
    ),
    Kind(
        "corpus_clusters",
        place="clusters",
        code_version="1",
        is_in=_is_unlabelled,
        inputs=_first_shard,
        config=_clustering,
        write=steps.find_clusters,
        price=prices.of_clusters,
        is_heavy=True,
    ),
    Kind(
        "shard_documents",
        place="documents/{key}",
        code_version="2",
        keys=shard_keys,
        inputs=_shard_and_clusters,
        config=_reading,
        write=steps.route_shard,
        price=prices.of_documents,
        is_heavy=True,
    ),
    Kind(
        "domain_dataset",
        place="datasets/{key}",
        code_version="2",
        keys=domain_keys,
        absent=absent_domains,
        inputs=_all_documents,
        config=_assembling,
        write_together=steps.assemble_datasets,
        price=prices.of_dataset,
        follows_inputs=True,
        is_heavy=True,
    ),
)
