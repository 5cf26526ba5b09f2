"""The line with experts that are trained as adapters: from seed to matrix, plan and publication."""

import dagster as dg
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mdel_assets.defs.launch import run_line
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.maintenance.experiment_checks import look_around
from mdel_assets.merging.members import without_folders
from mdel_assets.planning.devices import device_of_rate
from mdel_assets.planning.planned import plan_run
from mdel_assets.publishing.steps import publish_expert
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, branch, pico_experiment
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN, hub, publisher_to  # noqa: F401

pytestmark = pytest.mark.slow
ADAPTER = {"rank": 4, "targets": ["query_key_value", "dense_h_to_4h"]}
CHANGES = {
    "training": PICO["training"] | {"adapter": ADAPTER, "store": "delta"},
    "variants": {"whole": {"domain": "arxiv", "training": {"adapter": None}}},
    "baselines": {"dense_one": False},
    "merges": {"mean": {"merge_method": "linear", "models": [{"model": "expert:*"}]}},
}
IDS = torch.arange(48).reshape(2, 24) * 7 % 320


@pytest.fixture(scope="module")
def line(corpus, tmp_path_factory):
    """The line, run to its end, and what was planned before: (experiment, home, prices, made)."""
    experiment = pico_experiment(corpus, **CHANGES)
    home = MdelHome(tmp_path_factory.mktemp("adapters"))
    branch(experiment, home)
    lineage = home.lineage(experiment)
    plan = plan_run(lineage, device=device_of_rate(1.0))
    sizes = Sizes(lineage)
    planned = lineage.registry["expert_model"].price(sizes, "arxiv")
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    assert plan.num_to_make >= len([o for o in outcomes if o.state == "made"]) - 1
    return experiment, home, planned, outcomes


def test_the_line_runs_to_the_matrix(line):
    experiment, home, _, outcomes = line
    assert {o.state for o in outcomes} <= {"made", "up to date", "absent"}, [
        o.message for o in outcomes
    ]
    table = pq.read_table(home.root / "pico" / "reports" / "perplexity.parquet").to_pylist()
    assert {row["model"] for row in table} >= {"seed", "dense", "expert-arxiv", "merged-mean"}
    bits = {
        row["model"]: row["bits_per_byte"]
        for row in table
        if row["dataset"] == "arxiv" and row["split"] == "validation_domain"
    }
    assert bits["expert-arxiv"] < bits["seed"]
    assert bits["expert-arxiv"] < bits["expert-github"]
    # The sweep's expert without an adapter, and the baseline with one, are trained as they say.
    lineage = home.lineage(experiment)
    assert (lineage.folder("dense_baseline") / "adapter").is_dir()
    assert not (lineage.folder("variant_expert", "whole") / "adapter").exists()


def test_the_expert_is_what_peft_loads(line):
    experiment, home, _, _ = line
    lineage = home.lineage(experiment)
    seed = AutoModelForCausalLM.from_pretrained(lineage.folder("seed_model"))
    folder = lineage.folder("expert_model", "arxiv")
    by_peft = PeftModel.from_pretrained(seed, folder, subfolder="adapter").eval()
    assert by_peft.peft_config["default"].base_model_name_or_path == "pico/models/seed"
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
        assert (by_peft(IDS).logits - ours).abs().max() < 1e-5
        assert (by_peft.merge_and_unload()(IDS).logits - ours).abs().max() < 1e-5


def test_its_check_passes_and_its_disk_was_planned(line):
    experiment, home, planned, _ = line
    result = materialize(experiment, home, "expert_model", "arxiv")
    checks = {c.check_name: c.passed for c in result.get_asset_check_evaluations()}
    assert checks["frozen_weights_unchanged"]
    artifact = home.lineage(experiment).artifact("expert_model", "arxiv")
    linked = {"model-00001-of-00002.safetensors"}
    files = artifact.require().files.items()
    size = sum(file["size_bytes"] for name, file in files if name not in linked)
    assert planned.disk_bytes == pytest.approx(size + artifact.record_path.stat().st_size, rel=0.1)


def test_it_is_published_with_its_adapter(line, hub):  # noqa: F811
    experiment, home, _, _ = line
    lineage = home.lineage(experiment)
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment, token=TOKEN))
    held = hub.state.read("models", f"{OWNER}/expert-arxiv")
    folder = lineage.folder("expert_model", "arxiv") / "adapter"
    for path in folder.iterdir():
        assert held[f"adapter/{path.name}"] == path.read_bytes()
    card = held["README.md"].decode()
    assert f'PeftModel.from_pretrained(seed, "{OWNER}/expert-arxiv", subfolder="adapter")' in card
    assert "Adapters in layers 1, 2 were trained (1," in card


def test_a_recipe_that_adds_the_adapter_to_the_seed_makes_the_expert_again(line):
    experiment, home, _, _ = line
    folder = home.lineage(experiment).folder("expert_model", "arxiv")
    again = {"merge_method": "linear", "models": [{"model": f"seed+{folder / 'adapter'}"}]}
    recipes = experiment.merges | {"again": MergeRecipe.model_validate(again)}
    lineage = home.lineage(experiment.model_copy(update={"merges": recipes}))
    assert look_around(lineage).mistakes == []
    made = make_one(lineage, "merged_model", "again")
    ours = load_file(lineage.folder("merged_model", "again") / "model.safetensors")
    expert = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(t.equal(expert[n.replace("embed_out", "lm_head")]) for n, t in ours.items())
    ((digest, _),) = made.config["members"]
    assert digest.startswith("seed+folder:")
    made_in = lineage.folder("merged_model", "again")
    assert "`adapter`" in (made_in / "README.md").read_text()
    written = without_folders((made_in / "mergekit_config.yml").read_text())
    assert yaml.safe_load(written)["models"] == [{"model": "seed+adapter"}]
    assert lineage.stale("merged_model", "again") is None
