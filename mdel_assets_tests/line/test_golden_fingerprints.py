"""Fingerprints of before hold on: whoever installs a new version finds everything up to date."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.loading import bundled_experiments, load_experiment, parse_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.records import Identity
from mdel_assets_tests.conftest import PICO

RECORDED = Path(__file__).parent / "golden_fingerprints.json"
# What an experiment may have besides what the bundled ones have.
WITH_EVERYTHING = {
    "baselines": {"dense": True, "dense_one": True, "random_split": True},
    "variants": {
        "first-layer": {"domain": "github", "training": {"trained_layers": [0]}},
        "own-text": {"domain": "arxiv", "text": "domain"},
    },
    "merges": {
        "mean-all": {
            "merge_method": "linear",
            "models": [{"model": "expert:*", "parameters": {"weight": 1.0}}],
        },
        "of-random": {"merge_method": "linear", "models": [{"model": "random:*"}]},
        "searched": {
            "merge_method": "task_arithmetic",
            "base_model": "seed",
            "models": [{"model": "expert:github"}, {"model": "expert:arxiv"}],
            "mdel": {"search": {"num_trials": 8, "num_documents": 2}},
        },
    },
}


def bundled(name: str) -> Experiment:
    experiment = load_experiment(name)
    # A branch would be looked up on the Hub.
    seed = experiment.seed_model
    pinned = seed.model_copy(update={"revision": "a" * 40} if seed.path else {})
    return experiment.model_copy(update={"seed_model": pinned})


def with_everything() -> Experiment:
    source = {
        "train": ["corpus/00.jsonl", "corpus/01.jsonl"],
        "validation": "corpus/val.jsonl",
        "test": "corpus/test.jsonl",
    }
    content: dict[str, Any] = PICO | WITH_EVERYTHING | {"source": source}
    evaluation = dict(content["evaluation"])
    evaluation |= {"references": {"other": {"path": "owner/name", "revision": "b" * 40}}}
    evaluation |= {"max_tokens": 5000, "special_tokens": "text"}
    content |= {"evaluation": evaluation}
    content["training"] = content["training"] | {"special_tokens": "text"}
    return parse_experiment(yaml.safe_dump(content), origin="everything")


EXPERIMENTS = [*bundled_experiments(), "everything"]


def make_experiment(name: str) -> Experiment:
    """Return a bundled experiment, or the one that has everything."""
    return with_everything() if name == "everything" else bundled(name)


def make_records(lineage: Lineage) -> dict[str, str]:
    """Write a record for every artifact of the line; return their fingerprints."""
    found = {}
    for kind in lineage.kinds():
        for key in lineage.keys(kind):
            artifact = lineage.artifact(kind, key)
            if kind == "raw_pile_shard":
                identity = Identity(
                    kind, key, lineage.experiment.name, "1", {"sha256": "0" * 64}, {}
                )
            else:
                identity = lineage.identity(kind, key)
            with artifact.staging() as stage:
                artifact.publish(
                    stage,
                    identity,
                    counts={
                        "train": {"num_domain_documents": 1},
                        "domains": dict.fromkeys(lineage.experiment.domain_keys, 1),
                    },
                    details={"rows": []},
                )
            found[artifact.label] = identity.fingerprint
    return found


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fingerprints_are_those_that_were_recorded(name: str, home: MdelHome) -> None:
    found = make_records(home.lineage(make_experiment(name)))
    assert found == json.loads(RECORDED.read_text("utf-8"))[name]
