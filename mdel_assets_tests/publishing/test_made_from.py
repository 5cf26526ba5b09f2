"""What is published is judged by what it was made from, however it is named."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mdel_assets.errors import PublishingError, RestrictedDataError
from mdel_assets.experiment.fields import SeedModel
from mdel_assets.line.locks import making
from mdel_assets.merging.one_off import one_off_recipes
from mdel_assets.publishing.backend import Repository
from mdel_assets.publishing.cards import base_model
from mdel_assets.publishing.one_off_merge import plan_merge, refuse_publishing
from mdel_assets.publishing.steps import publish_dataset, publish_expert, publish_merged
from mdel_assets_tests.conftest import PICO, forge, pico_experiment
from mdel_assets_tests.publishing.conftest import OWNER, publisher_to
from mdel_assets_tests.waiting import wait_until

pytestmark = pytest.mark.in_use


@pytest.fixture
def line(finished, own_home):
    """A finished line that a test may change: (experiment, lineage)."""
    return finished[0], own_home.lineage(finished[0])


def with_merges(experiment, **merges):
    """Return the experiment with these recipes besides its own."""
    changed = pico_experiment(Path(), merges=PICO["merges"] | merges).merges
    return experiment.model_copy(update={"merges": changed})


def test_models_named_by_their_folders_are_refused_as_by_their_keys(line):
    _, lineage = line
    folders = [str(lineage.folder("expert_model", domain)) for domain in ("github", "arxiv")]
    plan = plan_merge(lineage, one_off_recipes(folders, None))
    domains = [{"key": "github", "name": "Books3"}, *PICO["domains"][1:]]
    lineage.experiment = pico_experiment(lineage.root.parent, domains=domains)
    with pytest.raises(RestrictedDataError, match="under copyright: github"):
        refuse_publishing(lineage, plan, Repository("model", f"{OWNER}/both"))


def test_what_is_made_anew_during_the_wait_is_published_with_its_own_card(line, hub, caplog):
    experiment, lineage = line
    publisher, expert = publisher_to(hub, experiment), lineage.artifact("expert_model", "arxiv")
    with ThreadPoolExecutor(1) as threads:
        with making(expert):
            waiting = threads.submit(publish_expert, lineage, "arxiv", publisher=publisher)
            wait_until(lambda: "waiting for expert_model 'arxiv', which process" in caplog.text)
            forge(expert, fingerprint="f" * 32)
        waiting.result()
    card = hub.state.read("models", f"{OWNER}/expert-arxiv")["README.md"].decode()
    assert f"| fingerprint | `{'f' * 32}` |" in card


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-1b-deduped@step1000", "EleutherAI/pythia-1b-deduped"),
        ("/home/alice/clients/acme/model", None),
    ],
)
def test_a_published_card_names_the_seed_by_its_place_on_the_hub_alone(line, hub, path, name):
    experiment, lineage = line
    forge(lineage.artifact("seed_model"), inputs={})
    lineage.experiment = experiment.model_copy(update={"seed_model": SeedModel(path=path)})
    assert base_model(lineage.experiment) == name
    publish_merged(lineage, "pair", publisher=publisher_to(hub, lineage.experiment))
    card = hub.state.read("models", f"{OWNER}/pair")["README.md"].decode()
    assert f"from one seed model ({name or 'a model that is not on the Hub'})" in card
    assert ("is a model that is not on the Hub" in card) == (name is None)
    assert "acme" not in card


def test_a_model_whose_dataset_is_another_by_now_is_not_published(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    forge(lineage.artifact("seed_model"), inputs={})
    lineage.experiment = experiment.model_copy(update={"seed_model": SeedModel(path="gpt2")})
    forge(lineage.artifact("domain_dataset", "arxiv"), fingerprint="f" * 32)
    told = (
        r"expert_model 'arxiv' was made from domain_dataset 'arxiv', which is another by now, or "
        r"gone: which text it read is not known\. Make it anew \('mdel run'\), then publish\."
    )
    for publish, key in ((publish_expert, "arxiv"), (publish_merged, "mean-all")):
        with pytest.raises(PublishingError, match=told):
            publish(lineage, key, publisher=publisher)
    assert hub.state.repositories() == []
    publish_dataset(lineage, "arxiv", publisher=publisher)
    publish_expert(lineage, "github", publisher=publisher)


def test_a_merge_of_a_domain_that_left_the_experiment_is_not_published(line, hub, corpus):
    _, lineage = line
    lineage.experiment = pico_experiment(corpus, domains=PICO["domains"][:2])
    with pytest.raises(PublishingError, match="made from expert_model 'freelaw', which does not"):
        publish_merged(lineage, "mean-all", publisher=publisher_to(hub, lineage.experiment))
    assert hub.state.repositories() == []


def test_a_recipe_that_names_other_models_by_now_is_refused_in_words(line, hub, tmp_path):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    folder = shutil.copytree(lineage.folder("expert_model", "arxiv"), tmp_path / "mine")
    models = PICO["merges"]["pair"]["models"]
    for added, told in (
        ("expert:arxiv", "without expert_model 'arxiv', which belongs to it by now"),
        (str(folder), f"made of expert-github, seed, and the recipe 'pair' names .*{folder} by"),
    ):
        pair = {"merge_method": "linear", "models": [*models, {"model": added}]}
        lineage.experiment = with_merges(experiment, pair=pair)
        with pytest.raises(PublishingError, match=told):
            publish_merged(lineage, "pair", publisher=publisher)
    assert hub.state.repositories() == []


def test_other_settings_and_other_code_keep_nothing_from_being_published(line, hub, corpus):
    _, lineage = line
    training = PICO["training"] | {"learning_rate": 1e-5}
    lineage.experiment = pico_experiment(corpus, training=training)
    forge(lineage.artifact("expert_model", "arxiv"), code_version="0")
    publisher = publisher_to(hub, lineage.experiment)
    publish_expert(lineage, "arxiv", publisher=publisher)
    for recipe in lineage.experiment.merges:
        publish_merged(lineage, recipe, publisher=publisher)
    assert len(hub.state.repositories()) == 4
