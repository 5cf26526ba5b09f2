"""Replicates: which artifacts there are, what they are made of, and what stays as it was."""

import json
import pickle

import pytest
import yaml

from mdel_assets.experiment.loading import parse_experiment
from mdel_assets.line.kind import Input
from mdel_assets.line.replicates import replicate_key, replicates_of, split_key
from mdel_assets_tests.conftest import PICO
from mdel_assets_tests.line.test_golden_fingerprints import (
    RECORDED,
    WITH_EVERYTHING,
    bundled,
    make_records,
)

OTHER = {"references": {"other": {"path": "owner/name", "revision": "b" * 40}}}


def experiment_of(**changes):
    source = {"train": ["corpus/00.jsonl"]}
    content = PICO | WITH_EVERYTHING | {"source": source, "replicates": 3} | changes
    content["evaluation"] = content["evaluation"] | OTHER
    return parse_experiment(yaml.safe_dump(content), origin="replicated")


def keys_of(experiment, lineage):
    return {kind: list(lineage.registry[kind].keys(experiment)) for kind in lineage.kinds()}


@pytest.mark.parametrize(
    ("key", "number", "named"),
    [("github", 2, "github@2"), ("", 12, "12"), ("expert-github", 3, "expert-github@3")],
)
def test_a_key_tells_what_it_is_a_replicate_of(key, number, named):
    assert replicate_key(key, number) == named
    assert split_key(named) == (key, number)


def test_everything_that_is_trained_exists_once_per_seed_and_so_does_what_is_made_of_it(home):
    experiment = experiment_of()
    found = keys_of(experiment, home.lineage(experiment))
    domains = ["github", "arxiv", "freelaw", "enron"]
    assert found["seed_model_replicate"] == found["dense_baseline_replicate"] == ["2", "3"]
    assert found["expert_model_replicate"] == [f"{d}@{r}" for r in (2, 3) for d in domains]
    assert found["random_split_expert_replicate"][:5] == ["1@2", "2@2", "3@2", "4@2", "1@3"]
    assert found["searched_merge_replicate"] == ["searched@2", "searched@3"]
    assert found["merged_model_replicate"][:3] == ["mean-all@2", "of-random@2", "searched@2"]
    models = found["token_scores"]
    scored = found["token_scores_replicate"]
    again = [m for m in models if not m.startswith(("variant-", "reference-"))]
    assert (
        scored
        == found["perplexity_report_replicate"]
        == [f"{model}@{number}" for number in (2, 3) for model in again]
    )
    # Only the first replicate has variants, and a model from elsewhere is the same in all.
    only_once = {"variant-first-layer", "variant-own-text", "reference-other"}
    assert set(models) - set(again) == only_once
    assert not {"variant_expert_replicate", "shard_documents_replicate"} & found.keys()


def test_a_seed_from_elsewhere_is_the_same_in_all_replicates(home):
    experiment = experiment_of(seed_model={"path": "owner/name", "revision": "a" * 40})
    lineage = home.lineage(experiment)
    found = keys_of(experiment, lineage)
    assert "seed_model_replicate" not in found
    assert "seed@2" not in found["token_scores_replicate"]
    expert = lineage.registry["expert_model_replicate"]
    inputs = expert.inputs(experiment, "github@3")
    assert inputs == [Input("domain_dataset", "github"), Input("seed_model")]


def test_a_replicate_is_made_of_its_own_models_and_of_the_same_datasets(home):
    experiment = experiment_of()
    rows = home.lineage(experiment).registry
    assert rows["expert_model_replicate"].inputs(experiment, "github@3") == [
        Input("domain_dataset", "github"),
        Input("seed_model_replicate", "3"),
    ]
    assert rows["merged_model_replicate"].inputs(experiment, "searched@2")[-1] == Input(
        "searched_merge_replicate", "searched@2"
    )
    matrix = rows["perplexity_matrix"].inputs(experiment, "")
    assert Input("token_scores", "seed") in matrix
    assert Input("perplexity_report_replicate", "dense@3") in matrix
    assert Input("token_scores_replicate", "dense@2") in rows["ensemble_report"].inputs(
        experiment, ""
    )


def test_each_replicate_is_trained_with_a_seed_of_its_own(home):
    lineage = home.lineage(experiment_of(training=PICO["training"] | {"seed": 2**32 - 2}))
    make_records(lineage)
    configs = [one.identity("expert_model", "github").config for one in replicates_of(lineage)]
    assert [config["seed"] for config in configs] == [2**32 - 2, 2**32 - 1, 0]
    pretrained = [one.identity("seed_model").config for one in replicates_of(lineage)]
    assert [config["pretrain"]["seed"] for config in pretrained] == [0, 1, 2]
    fingerprints = {
        one.identity("merged_model", "mean-all").fingerprint for one in replicates_of(lineage)
    }
    assert len(fingerprints) == 3


def test_more_replicates_leave_what_was_made_up_to_date(home):
    experiment = bundled("sample").model_copy(update={"replicates": 2})
    found = make_records(home.lineage(experiment))
    before = json.loads(RECORDED.read_text("utf-8"))["sample"]
    own = {label: mark for label, mark in found.items() if "_replicate" not in label}
    # The reports are of all replicates.
    changed = {label for label in before if own[label] != before[label]}
    assert changed == {"perplexity_matrix", "ensemble_report", "experiment_report"}
    assert own.keys() == before.keys()


def test_a_lineage_with_replicates_can_be_handed_to_another_process(home):
    experiment = experiment_of()
    lineage = home.lineage(experiment)
    for one in replicates_of(lineage):
        handed = pickle.loads(pickle.dumps(one))
        assert keys_of(experiment, handed) == keys_of(experiment, one)
        assert handed.artifact("seed_model") == one.artifact("seed_model")
