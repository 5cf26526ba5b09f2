"""Experts of one run that train in processes beside each other, as `mdel run` trains them."""

import shutil

import dagster as dg
import pytest
import torch
from safetensors.torch import load_file

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome

pytestmark = pytest.mark.slow
DOMAINS = ("github", "arxiv", "freelaw")


def without_experts(home, folder):
    """Return a copy of a finished home that has no experts, and trains two at a time."""
    copy = MdelHome(shutil.copytree(home.root, folder))
    shutil.rmtree(copy.root / "pico" / "models" / "experts")
    (copy.root / "compute.yaml").write_text("models_at_once: 2\n")
    return copy


def test_experts_beside_each_other_are_those_of_one_after_the_other(finished, tmp_path):
    experiment, home, _ = finished
    copy = without_experts(home, tmp_path / "home")
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, copy, instance=instance))
        made = [o for o in outcomes if o.state == "made"]
        assert [(o.kind, o.key) for o in made] == [("expert_model", "all 3")]
        recorded = instance.get_materialized_partitions(dg.AssetKey("expert_model"))
        assert recorded == set(DOMAINS)
    for domain in DOMAINS:
        ours, theirs = (
            h.lineage(experiment).artifact("expert_model", domain) for h in (copy, home)
        )
        assert ours.require().fingerprint == theirs.require().fingerprint
        mine, other = (load_file(a.folder / "model.safetensors") for a in (ours, theirs))
        assert mine.keys() == other.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-5)
        history = ours.require().details["history"]
        assert history["num_steps"] == theirs.require().details["history"]["num_steps"]


def test_one_that_fails_does_not_stop_the_one_beside_it(finished, tmp_path):
    experiment, home, _ = finished
    copy = without_experts(home, tmp_path / "home")
    lineage = copy.lineage(experiment)
    store = lineage
    # A file lies where arxiv's checkpoints would.
    fingerprint = lineage.identity("expert_model", "arxiv").fingerprint
    (store.root / "work").mkdir(exist_ok=True)
    (store.root / "work" / f"expert_model-arxiv-{fingerprint}").touch()
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, copy, instance=instance))
    failed = {o.kind: o for o in outcomes if o.state == "failed"}
    assert "arxiv" in failed["expert_model"].message
    assert (failed["expert_model"].key, failed["expert_model"].not_made) == ("arxiv", ("arxiv",))
    assert store.artifact("expert_model", "github").read_record() is not None
    assert store.artifact("expert_model", "freelaw").read_record() is not None
    assert store.artifact("expert_model", "arxiv").read_record() is None
