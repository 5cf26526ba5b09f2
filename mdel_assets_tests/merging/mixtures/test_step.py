"""Mixtures as artifacts of an experiment: made, left, killed, forgotten."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.experiment.fields import SeedModel
from mdel_assets.home import MdelHome
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.making import make_one
from mdel_assets.maintenance.forgetting import plan_forgetting
from mdel_assets.merging.mixtures.cards import card_of_mixture
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets.publishing.steps import publish_mixture
from mdel_assets_tests.merging.mixtures.folders import load
from mdel_assets_tests.merging.mixtures.mixable import experiment_of, home_with_experts
from mdel_assets_tests.publishing.conftest import with_hub

TWO = ["expert:github", "expert:freelaw"]
TRAINED = {"router": "trained", "training": {"num_steps": 2}}


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A home with the experts of a seed that can be mixed."""
    return home_with_experts(corpus, tmp_path_factory)


@pytest.fixture
def lineage_of(corpus, trained, tmp_path):
    """Return the lineage of an experiment with these mixtures, in a copy of the home."""
    number = 0

    def make(*, home=None, **mixtures):
        nonlocal number
        number += 1
        if home is None:
            home = tmp_path / f"home-{number}"
            shutil.copytree(trained, home)
        return MdelHome(home).lineage(experiment_of(corpus, **mixtures))

    return make


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_mixture_is_a_model_of_the_experiment(lineage_of):
    lineage = lineage_of(small={"general_expert": True})
    assert "mixture-small" in lineage.experiment.model_keys
    record = make_one(lineage, "moe_model", "small")
    artifact = lineage.model("mixture-small")
    assert artifact.folder == lineage.folder("moe_model", "small")
    model = load(artifact.folder)
    assert model.config.mlp_only_layers == [0]
    # Enron is absent from the corpus.
    experts = ["expert-github", "expert-arxiv", "expert-freelaw"]
    assert record.details["experts"] == [*experts, "seed"]
    assert record.config["experts"] == ["github", "arxiv", "freelaw"]
    assert record.details["mixture_layers"] == [1, 2]
    idle = 2 * 2 * 3 * 64 * 32
    assert record.details["num_active_parameters"] == model.num_parameters() - idle
    card = (artifact.folder / "README.md").read_text()
    told = f"{model.num_parameters() - idle:,} of {model.num_parameters():,} weights are active"
    assert told in card
    assert "`seed` (the seed's own feed-forward)" in card
    assert "../../experts/github" in card
    assert make_one(lineage, "moe_model", "small") == record


def test_a_recipe_without_an_expert_makes_the_mixture_that_never_had_it(lineage_of, caplog):
    rest = {"experts": TWO}
    fresh = lineage_of(small=rest)
    make_one(fresh, "moe_model", "small")
    lineage = lineage_of(small={})
    make_one(lineage, "moe_model", "small")
    lineage = lineage_of(home=lineage.root.parent, small=rest)
    with caplog.at_level("INFO"):
        make_one(lineage, "moe_model", "small")
    assert "expert-arxiv leaves moe_model 'small'" in caplog.text
    left, never = (each.folder("moe_model", "small") for each in (lineage, fresh))
    assert content(left) == content(never)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Two leave at once; gates are made of less text; the order is another; gates are trained.
        ({"general_expert": True}, {"general_expert": True, "experts": TWO[:1]}),
        ({}, {"experts": TWO, "router_tokens": 1024}),
        ({}, {"experts": TWO[::-1]}),
        (TRAINED, TRAINED | {"experts": TWO}),
    ],
)
def test_a_mixture_that_differs_in_more_is_built_anew(lineage_of, caplog, before, after):
    """What is built of the experts is what a home without an earlier mixture builds."""
    lineage = lineage_of(small=before)
    make_one(lineage, "moe_model", "small")
    lineage = lineage_of(home=lineage.root.parent, small=after)
    with caplog.at_level("INFO"):
        make_one(lineage, "moe_model", "small")
    assert "leaves" not in caplog.text
    fresh = lineage_of(small=after)
    make_one(fresh, "moe_model", "small")
    again, never = (each.folder("moe_model", "small") for each in (lineage, fresh))
    files = [content(again), content(never)]
    for found in files:
        found.pop("making.json", None)
    assert files[0] == files[1]


def test_trained_gates_go_on_where_they_were_stopped(lineage_of):
    recipe = {"router": "trained", "training": {"num_steps": 4}}
    whole, cut = lineage_of(small=recipe), lineage_of(small=recipe)
    record = make_one(whole, "moe_model", "small")
    assert record.details["history"]["num_steps"] == 4
    with pytest.raises(TrainingInterruptedError, match="step 1 of 4"):
        make_one(cut, "moe_model", "small", conditions=Conditions(max_seconds=0.0))
    assert not cut.folder("moe_model", "small").exists()
    assert make_one(cut, "moe_model", "small") == record


def test_a_mixture_of_a_forgotten_domains_expert_is_found(lineage_of):
    lineage = lineage_of(small={"experts": TWO})
    make_one(lineage, "moe_model", "small")
    traces = plan_forgetting(MdelHome(lineage.root.parent), lineage, "github")
    derived = [(entry.found.record.kind, entry.found.record.key) for entry in traces.derived]
    assert ("moe_model", "small") in derived


def test_a_mixture_is_published_with_its_active_weights_and_no_place_on_this_disk(
    lineage_of, tmp_path
):
    lineage = lineage_of(small={"experts": TWO, "experts_per_token": 1})
    record = make_one(lineage, "moe_model", "small")
    publisher = make_publisher(
        with_hub(lineage.experiment, endpoint=f"file:{tmp_path / 'hub'}", namespace="lab"),
        environment={},
    )
    done = publish_mixture(lineage, "small", publisher=publisher).record
    assert done.details["repository"] == "lab/mixture-small"
    folder = tmp_path / "hub" / "models" / "lab" / "mixture-small" / "main"
    model = load(folder)
    card = (folder / "README.md").read_text()
    # One of two experts idles in each of two layers.
    active = model.num_parameters() - 2 * 3 * 64 * 32
    assert record.details["num_active_parameters"] == active
    assert f"1 of 2 experts in each of 2 mixture layers: {active:,} of" in card
    assert "training text of freelaw" in card
    assert "training text of arxiv" not in card
    assert "experts/github" not in card
    assert "from_pretrained" in card


def test_a_mixture_is_published_by_its_name(lineage_of, tmp_path, monkeypatch):
    lineage = lineage_of(small={"experts": TWO}, other={"experts": TWO})
    experiment = with_hub(lineage.experiment, endpoint=f"file:{tmp_path / 'hub'}", namespace="lab")
    path = tmp_path / "mixtures.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_unset=True))))
    monkeypatch.setenv("MDEL_HOME", str(lineage.root.parent))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    make_one(lineage, "moe_model", "small")
    done = CliRunner().invoke(main, ["publish", "mixture", "small"])
    assert done.exit_code == 0, done.output
    published = (tmp_path / "hub" / "models" / "lab").iterdir()
    assert [folder.name for folder in published] == ["mixture-small"]
    refused = CliRunner().invoke(main, ["publish", "mixture", "smal"])
    assert "Unknown mixture 'smal'. Did you mean 'small'?" in refused.output


@pytest.mark.in_use
def test_a_published_mixture_does_not_say_where_its_seed_lies(lineage_of):
    lineage = lineage_of(small={"experts": TWO})
    record = make_one(lineage, "moe_model", "small")
    seed = SeedModel(path="/home/alice/clients/acme/model")
    lineage.experiment = lineage.experiment.model_copy(update={"seed_model": seed})
    here, published = (
        card_of_mixture(
            lineage,
            "small",
            inputs=record.inputs,
            folder=lineage.folder("moe_model", "small"),
            details=record.details,
            is_published=is_published,
        )
        for is_published in (False, True)
    )
    assert "from one seed model (/home/alice/clients/acme/model)" in here
    assert "from one seed model (a model that is not on the Hub)" in published
