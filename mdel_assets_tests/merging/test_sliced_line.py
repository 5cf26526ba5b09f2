"""A recipe of slices in an experiment: merged, scored and checked beside models of other depth."""

import math
import shutil

import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from mergekit.config import MergeConfiguration
from safetensors.torch import load_file

from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets_tests.conftest import pico_experiment


@pytest.fixture(scope="module")
def stacked(branched, corpus, tmp_path_factory):
    """Return the lineage of a line with a recipe of slices, made up to its scores."""
    _, home = branched
    recipe = yaml.safe_load("""
        merge_method: task_arithmetic
        slices:
          - sources:
              - {model: "expert:*", layer_range: [0, 2], parameters: {weight: 0.3}}
          - sources: [{model: "expert:github", layer_range: [1, 3]}]
            parameters: {weight: 1.0}
    """)
    folder = tmp_path_factory.mktemp("stacked") / "home"
    shutil.copytree(home.root, folder)
    experiment = pico_experiment(corpus, merges={"stacked": recipe}, baselines={})
    lineage = MdelHome(folder).lineage(experiment)
    for domain in lineage.present_domains():
        make_one(lineage, "expert_model", domain)
    make_one(lineage, "merged_model", "stacked")
    return lineage


def test_an_experiments_recipe_may_have_slices(stacked):
    folder = stacked.folder("merged_model", "stacked")
    merged = load_file(folder / "model.safetensors")
    seed = load_file(stacked.folder("seed_model") / "model.safetensors")
    expert = load_file(stacked.folder("expert_model", "github") / "model.safetensors")
    inside = "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight"
    # The second slice: seed plus the whole task vector, of layers 1 and 2.
    for place, layer in ((2, 1), (3, 2)):
        torch.testing.assert_close(
            merged[inside.format(place)], expert[inside.format(layer)], rtol=0, atol=1e-6
        )
    experts = [
        load_file(stacked.folder("expert_model", domain) / "model.safetensors")
        for domain in stacked.present_domains()
    ]
    name = inside.format(1)
    expected = seed[name] + sum(0.3 * (tensors[name] - seed[name]) for tensors in experts)
    torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)
    written = yaml.safe_load((folder / "mergekit_config.yml").read_text())
    assert [source["model"] for source in written["slices"][1]["sources"]] == [
        "expert-github",
        "seed",
    ]
    assert MergeConfiguration.model_validate(written).base_model.model.path == "seed"


def test_a_model_of_slices_is_scored_beside_models_with_fewer_layers(stacked):
    make_all(stacked, "token_scores", ["seed", "merged-stacked", "expert-github"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        stacked.folder("merged_model", "stacked")
    )
    assert model.config.num_hidden_layers == 4
    make_one(stacked, "perplexity_report", "merged-stacked")
    (alone,) = (
        row["bits_per_byte"]
        for row in stacked.artifact("perplexity_report", "merged-stacked").require().details["rows"]
        if (row["dataset"], row["split"]) == ("arxiv", "validation_domain")
    )
    table = pq.read_table(stacked.folder("domain_dataset", "arxiv") / "validation_domain.parquet")
    tokenizer = transformers.AutoTokenizer.from_pretrained(stacked.folder("seed_model"))
    nats = 0.0
    for text in table["text"].to_pylist():
        windows = get_rolling_token_windows(
            tokenizer(text)["input_ids"],
            prefix_token=tokenizer.eos_token_id,
            max_seq_len=32,
            context_len=1,
        )
        for window in windows:
            context, wanted = make_disjoint_window(window)
            ids = torch.tensor([[*context, *wanted][:-1]])
            with torch.no_grad():
                logits = model(ids).logits[0, -len(wanted) :].double()
            nats += float(
                torch.nn.functional.cross_entropy(logits, torch.tensor(wanted), reduction="sum")
            )
    num_bytes = sum(len(text.encode()) for text in table["text"].to_pylist())
    assert alone == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
