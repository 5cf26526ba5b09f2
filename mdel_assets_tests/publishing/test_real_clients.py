"""What was published, loaded by transformers and datasets in processes of their own."""

import json

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard

from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.publishing.clients import client_environment, run_python, snippet_of
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN, with_hub

pytestmark = pytest.mark.slow

ASSETS = (
    ("hub_dataset", "arxiv"),
    ("hub_expert", "arxiv"),
    ("hub_expert", "github"),
    ("hub_merged_model", "pair"),
    ("hub_merged_model", "mean-all"),
)

LOAD = f"""
import json
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{OWNER}/expert-arxiv"
model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
tokenizer = AutoTokenizer.from_pretrained(name)
ids = tokenizer("theorem proof", return_tensors="pt")["input_ids"]
whole = load_dataset("{OWNER}/arxiv")
stream = load_dataset("{OWNER}/arxiv", split="train", streaming=True)
print(json.dumps({{
    "parameters": model.num_parameters(),
    "logit": float(model(ids).logits[0, -1, 0]),
    "rows": {{split: len(rows) for split, rows in whole.items()}},
    "whole": whole["train"]["text"][:],
    "streamed": [row["text"] for row in stream],
}}))
"""


@pytest.fixture
def published(finished, own_home, hub, monkeypatch):
    """Everything in `ASSETS`, published through Dagster: (lineage, results)."""
    experiment, home = finished[0], own_home
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    experiment = with_hub(experiment, endpoint=hub.endpoint, namespace=OWNER)
    results = [materialize(experiment, home, asset, key) for asset, key in ASSETS]
    return home.lineage(experiment), results


def test_transformers_and_datasets_load_what_was_published(published, hub, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lineage, _ = published
    environment = client_environment(hub, tmp_path / "client", token=TOKEN)
    loaded = json.loads(run_python(LOAD, environment).splitlines()[-1])
    folder = lineage.folder("expert_model", "arxiv")
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("theorem proof", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = float(model(ids).logits[0, -1, 0])
    assert loaded["parameters"] == model.num_parameters()
    assert loaded["logit"] == pytest.approx(expected, abs=1e-5)
    dataset = lineage.folder("domain_dataset", "arxiv")
    texts = pq.read_table(dataset / "train.parquet").column("text").to_pylist()
    assert loaded["whole"] == loaded["streamed"] == texts
    splits = {path.stem: pq.read_metadata(path).num_rows for path in dataset.glob("*.parquet")}
    assert loaded["rows"] == {split: count for split, count in splits.items() if count}
    assert hub.tokens_at_storage == []


def test_the_cards_snippets_run(published, hub, tmp_path):
    environment = client_environment(hub, tmp_path / "client", token=TOKEN)
    for kind, name in (("datasets", "arxiv"), ("models", "expert-arxiv"), ("models", "mean-all")):
        card = hub.state.read(kind, f"{OWNER}/{name}")["README.md"].decode()
        assert run_python(snippet_of(card), environment).strip()


def test_cards_tell_a_stranger_and_a_machine_the_same(published, hub):
    lineage, _ = published
    files = hub.state.read("models", f"{OWNER}/expert-arxiv")
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.datasets == [f"{OWNER}/arxiv"]
    rows = {
        (row["dataset"], row["split"]): row["perplexity"]
        for row in lineage.artifact("perplexity_report", "expert-arxiv").require().details["rows"]
    }
    told = {
        (result.dataset_name, result.dataset_split): result.metric_value
        for result in card.data.eval_results
        if result.metric_type == "perplexity"
    }
    assert told == rows
    place = f"{rows['arxiv', 'validation_domain']:.4g}"
    assert f"| `arxiv`, validation_domain | {place} |" in card.text
    assert "| seed | merged-mean-all | dense-one | dense |" in card.text
    assert files["perplexity.png"].startswith(b"\x89PNG")
    dataset_revision = hub.state.repository("datasets", f"{OWNER}/arxiv").resolve("main")
    assert f"`{OWNER}/arxiv@{dataset_revision}`" in card.text
    merged = ModelCard(hub.state.read("models", f"{OWNER}/mean-all")["README.md"].decode())
    # The expert of `freelaw` was not published.
    assert merged.data.base_model == [f"{OWNER}/expert-github", f"{OWNER}/expert-arxiv"]
    data = hub.state.read("datasets", f"{OWNER}/arxiv")["README.md"].decode()
    assert "LaTeX sources of arXiv preprints" in data
    assert "| train shard | 00.jsonl.zst; sha256 `" in data
    assert "40 documents, 0 rejected" in data
    assert "It also holds 1 times as many documents of the" in data
    assert str(lineage.root) not in data + card.text + merged.text


def test_assets_show_repository_revision_and_card(published, hub):
    _, results = published
    (shown,) = results[1].asset_materializations_for_node("hub_expert")
    revision = hub.state.repository("models", f"{OWNER}/expert-arxiv").resolve("main")
    assert shown.metadata["revision"].value == revision
    assert shown.metadata["url"].value.endswith(f"{OWNER}/expert-arxiv/tree/{revision}")
    assert "## How to load it" in shown.metadata["card"].value


def test_they_are_not_part_of_the_line_and_a_dry_run_is_a_setting(finished, hub, monkeypatch):
    experiment, home, _ = finished
    experiment = with_hub(experiment, endpoint=hub.endpoint, namespace=OWNER)
    kinds = {kind for kind, _ in home.lineage(experiment).walk()}
    assert not {kind for kind in kinds if kind.startswith("hub_")}
    with pytest.raises(Exception, match="There is no token for publishing"):
        materialize(experiment, home, "hub_expert", "arxiv")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    config = {"resources": {"hub": {"config": {"dry_run": True}}}}
    result = materialize(experiment, home, "hub_expert", "arxiv", run_config=config)
    (shown,) = result.asset_materializations_for_node("hub_expert")
    assert "send   model.safetensors" in shown.metadata["plan"].value
    assert hub.state.repositories() == []
    absent = materialize(experiment, home, "hub_dataset", "enron")
    assert absent.success
    assert absent.get_asset_materialization_events() == []
