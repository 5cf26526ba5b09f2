"""Plans after the experiment has changed: what was made before it changed has no say."""

import shutil

import dagster as dg
import pytest

from mdel_assets.defs.launch import run_line
from mdel_assets.errors import TrainingError
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets.planning.wanted import wanted_artifacts
from mdel_assets.training.prices import of_seed
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, make_documents, pico_experiment, write_shard


def pretrained(**changes):
    """Return the settings of a seed from scratch with other settings of its model."""
    pretrain = PICO["seed_model"]["pretrain"]
    return {"pretrain": {**pretrain, "model": pretrain["model"] | changes}}


def test_other_widths_of_the_seed_are_planned_though_the_old_one_is_there(corpus, branched):
    experiment, home = branched
    made = Sizes(home.lineage(experiment))
    assert made.seed_folder == home.lineage(experiment).folder("seed_model")
    assert made.model.hidden_size == 32
    wider = pretrained(hidden_size=64)
    sizes = Sizes(home.lineage(pico_experiment(corpus, seed_model=wider)))
    assert sizes.seed_folder is None
    assert sizes.model.hidden_size == 64
    # Two matrices of 320 words and 64 numbers, a norm, and three layers: attention (64 x 192 and
    # 64 x 64), a feed-forward (64 x 64 twice) and their biases, and two norms.
    layer = 64 * 192 + 192 + 64 * 64 + 64 + 2 * (64 * 64 + 64) + 2 * 2 * 64
    assert sizes.model.num_parameters == 2 * 320 * 64 + 2 * 64 + 3 * layer


def test_an_adopted_seed_has_the_sizes_of_the_folder_that_is_named_now(corpus, home, make_model):
    old = home.lineage(pico_experiment(corpus, seed_model={"path": str(make_model("llama"))}))
    make_one(old, "seed_model")
    assert Sizes(old).model.hidden_size == 32
    other = make_model("llama", hidden_size=64, dtype="bfloat16")
    sizes = Sizes(home.lineage(pico_experiment(corpus, seed_model={"path": str(other)})))
    assert sizes.seed_folder == other
    assert (sizes.model.hidden_size, sizes.bytes_per_parameter) == (64, 2.0)


def test_a_seed_that_cannot_be_reached_has_no_price_though_the_old_one_is_there(
    corpus, home, make_model, monkeypatch
):
    old = home.lineage(pico_experiment(corpus, seed_model={"path": str(make_model("llama"))}))
    make_one(old, "seed_model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sizes = Sizes(home.lineage(pico_experiment(corpus, seed_model={"path": "nobody/nothing"})))
    with pytest.raises(TrainingError, match="nobody/nothing are not known"):
        of_seed(sizes, "")


def test_datasets_tell_the_text_though_a_domain_is_absent(branched):
    text = Sizes(branched[1].lineage(branched[0])).text
    assert text.known_by == "the datasets' records"
    assert text.are_datasets_there
    assert list(text.datasets) == ["github", "arxiv", "freelaw"]


def test_an_added_shard_counts_beside_those_that_were_routed(corpus, home, tmp_path):
    # Every domain has a dataset: none is absent.
    domains = PICO["domains"][:3]
    made = home.lineage(pico_experiment(corpus, domains=domains))
    for key in made.keys("raw_pile_shard"):
        make_one(made, "raw_pile_shard", key)
        make_one(made, "shard_documents", key)
    make_all(made, "domain_dataset", made.experiment.domain_keys)
    assert Sizes(made).text.are_datasets_there
    more = write_shard(tmp_path / "02.jsonl.zst", make_documents({"Github": 300}))
    shards = [str(corpus / "00.jsonl.zst"), str(corpus / "01.jsonl.zst"), str(more)]
    experiment = pico_experiment(corpus, domains=domains, source={"train": shards})
    text = Sizes(home.lineage(experiment)).text
    assert not text.are_datasets_there
    # As many documents for a byte of its file as the four shards have that were routed: 20 of
    # GitHub in each train shard, and 6 in each of the others.
    names = ("00", "01", "val", "test")
    read = sum((corpus / f"{name}.jsonl.zst").stat().st_size for name in names)
    judged = 52 / read * more.stat().st_size
    assert text.documents["02"]["github"].num_documents == pytest.approx(judged)
    assert text.documents["00"]["github"].num_documents == 20
    assert text.own["github"]["train"].num_documents == pytest.approx(40 + judged)


def test_a_shard_that_lies_elsewhere_now_counts_as_its_new_file(corpus, branched, tmp_path):
    moved = write_shard(tmp_path / "00.jsonl.zst", make_documents({"Github": 300}))
    shards = [str(moved), str(corpus / "01.jsonl.zst")]
    text = Sizes(branched[1].lineage(pico_experiment(corpus, source={"train": shards}))).text
    assert text.shards["00"] == moved.stat().st_size
    names = ("01", "val", "test")
    read = sum((corpus / f"{name}.jsonl.zst").stat().st_size for name in names)
    judged = 32 / read * moved.stat().st_size
    assert text.documents["00"]["github"].num_documents == pytest.approx(judged)
    assert text.own["github"]["train"].num_documents == pytest.approx(20 + judged)


def test_datasets_of_another_mixture_are_judged_by_the_routed_shards(corpus, branched):
    text = Sizes(branched[1].lineage(pico_experiment(corpus, mixture={"general_ratio": 0.5}))).text
    assert text.known_by == "the records of routed shards"
    # 24 documents of ArXiv, and half as many of other domains.
    assert text.datasets["arxiv"]["train"].num_documents == pytest.approx(24 + 12)


def to_make(experiment, home):
    """Return what a run would make, by kind."""
    wanted = wanted_artifacts(Sizes(home.lineage(experiment)))
    return {entry.kind: set(entry.keys) for entry in wanted if entry.keys}


def made_by_a_run(experiment, home):
    """Run the line; return what it has made, by kind."""
    found = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for outcome in run_line(experiment, home, instance=instance):
            assert outcome.state != "failed", outcome.message
            if outcome.state == "made":
                found.setdefault(outcome.kind, set()).update(outcome.keys)
    return found


@pytest.mark.slow
def test_what_follows_a_change_is_planned_as_it_is_made_then(corpus, finished, tmp_path):
    experiment, finished_home, _ = finished
    home = MdelHome(shutil.copytree(finished_home.root, tmp_path / "home", symlinks=True))
    assert to_make(experiment, home) == {}
    # Experts are trained anew, and what is made of them is made anew; the seed's scores stay.
    changed = pico_experiment(corpus, training=PICO["training"] | {"learning_rate": 1e-3})
    wanted = to_make(changed, home)
    assert wanted["expert_model"] == {"github", "arxiv", "freelaw"}
    assert "expert-arxiv" in wanted["token_scores"]
    assert "seed" not in wanted["token_scores"]
    assert wanted == made_by_a_run(changed, home)
    # After another seed, every model is another, of the same datasets.
    reseeded = pico_experiment(corpus, seed_model=pretrained(intermediate_size=48))
    wanted = to_make(reseeded, home)
    assert not {"shard_documents", "domain_dataset"} & wanted.keys()
    assert wanted["expert_model"] == {"github", "arxiv", "freelaw"}
    assert {"merged_model", "token_scores", "perplexity_matrix"} <= wanted.keys()


@pytest.mark.slow
def test_what_was_lost_is_planned_alone(finished, tmp_path):
    experiment, finished_home, _ = finished
    home = MdelHome(shutil.copytree(finished_home.root, tmp_path / "home", symlinks=True))
    lineage = home.lineage(experiment)
    shutil.rmtree(lineage.folder("expert_model", "arxiv"))
    wanted = to_make(experiment, home)
    # The matrix takes the models that are there, so it may be another until they all are.
    assert wanted.keys() - {"perplexity_matrix", "experiment_report"} == {"expert_model"}
    assert wanted["expert_model"] == {"arxiv"}
    assert made_by_a_run(experiment, home) == {"expert_model": {"arxiv"}}
