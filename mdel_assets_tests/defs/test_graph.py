"""The graph in Dagster says what lineage says: every dependency, partition by partition."""

import json
from pathlib import Path

import dagster as dg
import pytest

from mdel_assets.defs.graph import build_definitions
from mdel_assets_tests.line.test_golden_fingerprints import EXPERIMENTS, make_experiment

RECORDED = Path(__file__).parent / "golden_graph.json"


def upstream_of(graph, kind, input_kind, key):
    """Return the keys of a partitioned input that Dagster takes for ``key``."""
    node, upstream = graph.get(dg.AssetKey(kind)), graph.get(dg.AssetKey(input_kind))
    mapping = graph.get_partition_mapping(node.key, upstream.key)
    own = node.partitions_def and node.partitions_def.subset_with_partition_keys([key])
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        own, node.partitions_def, upstream.partitions_def
    )
    return set(found.partitions_subset.get_partition_keys())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_dependencies_in_dagster_are_the_inputs_that_kinds_declare(name, home):
    experiment = make_experiment(name)
    lineage = home.lineage(experiment)
    graph = build_definitions(experiment, home).resolve_asset_graph()
    assets = [graph.get(key) for key in graph.get_all_asset_keys()]
    partitioned = {asset.key.path[-1] for asset in assets if asset.partitions_def}
    for kind in graph.get_all_asset_keys():
        declared = lineage.registry[kind.path[-1]]
        deps = {parent.path[-1] for parent in graph.get(kind).parent_keys}
        keys = declared.keys(experiment)
        inputs = {key: declared.inputs(experiment, key) for key in keys}
        assert deps == {entry.kind for entries in inputs.values() for entry in entries}, kind
        for key, entries in inputs.items():
            # Of an asset without partitions Dagster knows no more than that it is an input.
            for dep in deps & partitioned:
                wanted = {entry.key for entry in entries if entry.kind == dep}
                assert upstream_of(graph, declared.name, dep, key) == wanted, (kind, dep)


def graph_of(experiment, home):
    """Return each asset's group, dependencies, checks and number of partitions."""
    graph = build_definitions(experiment, home).resolve_asset_graph()
    found = {}
    for key in sorted(graph.get_all_asset_keys(), key=lambda key: key.path):
        asset = graph.get(key)
        found[key.path[-1]] = {
            "group": asset.group_name,
            "made_from": sorted(parent.path[-1] for parent in asset.parent_keys),
            "checks": sorted(check.name for check in asset.check_keys),
            "partitions": len(asset.partitions_def.get_partition_keys())
            if asset.partitions_def
            else None,
        }
    return found


def test_the_graph_is_the_one_that_was_recorded(home):
    assert graph_of(make_experiment("everything"), home) == json.loads(RECORDED.read_text("utf-8"))
