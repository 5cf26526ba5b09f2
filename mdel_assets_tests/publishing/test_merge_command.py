"""``mdel merge`` and ``mdel publish``, as a person types them."""

import json
import logging
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from mdel_assets.cli.main import main
from mdel_assets.line.locks import making
from mdel_assets.merging.one_off import one_off_artifact
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN, with_hub
from mdel_assets_tests.waiting import wait_until


@pytest.fixture
def mdel(finished, own_home, hub, tmp_path, monkeypatch):
    """A function that runs ``mdel`` on a copy of the finished line and returns what it says."""
    experiment = with_hub(finished[0], endpoint=hub.endpoint, namespace=OWNER)
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    monkeypatch.setenv("MDEL_HOME", str(own_home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*words, fails=False):
        result = CliRunner().invoke(main, list(words))
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    return run


def test_two_experts_become_their_mean_with_tokenizer_recipe_and_card(mdel, own_home, tmp_path):
    models = own_home.root / "pico" / "models"
    output = tmp_path / "merged"
    said = mdel("merge", "-e", "github", "-e", "arxiv", "--output", str(output))
    assert f"in {output}" in said
    first, second, merged = (
        load_file(folder / "model.safetensors")
        for folder in (models / "experts" / "github", models / "experts" / "arxiv", output)
    )
    for name, tensor in merged.items():
        assert tensor.sub((first[name] + second[name]) / 2).abs().max() < 1e-6
    assert (output / "tokenizer.json").exists()
    recipe = yaml.safe_load((output / "mergekit_config.yml").read_text())
    places = [models / "experts" / "github", models / "experts" / "arxiv"]
    assert recipe["models"] == [{"model": str(place)} for place in places]
    fingerprint = json.loads((models / "experts" / "github" / "record.json").read_text())
    assert (
        f"| `expert-github` | `{fingerprint['fingerprint']}` |"
        in (output / "README.md").read_text()
    )
    mdel("merge", "-e", "github", "-e", "freelaw", "--output", str(output))  # is replaced whole
    assert "expert-freelaw" in (output / "README.md").read_text()


@pytest.mark.in_use
def test_a_published_merge_is_forgotten_with_its_domains(mdel, hub, tmp_path):
    output = tmp_path / "both"
    words = ("-e", "github", "-e", "arxiv", "--output", str(output), "--hf-repo", "both")
    mdel("merge", *words)
    shutil.rmtree(output)
    assert f"published  model {OWNER}/both on {hub.endpoint}" in mdel("forget", "--domain", "arxiv")
    mdel("forget", "--domain", "arxiv", "--yes-delete-remote", "--yes")
    assert hub.state.repositories() == []
    assert f"{OWNER}/both" not in mdel("forget", "--domain", "arxiv")


def test_a_recipe_of_a_file_takes_folders_and_is_published_without_their_places(
    mdel, hub, own_home, tmp_path
):
    folder = tmp_path / "somewhere" / "my-expert"
    shutil.copytree(own_home.root / "pico" / "models" / "experts" / "arxiv", folder)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "seed",
        "models": [
            {"model": "expert:github", "parameters": {"weight": 0.5}},
            {"model": str(folder), "parameters": {"weight": 0.5}},
        ],
    }
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    said = mdel("merge", "--recipe", str(path), "--hf-repo", "both")
    assert (own_home.root / "merges" / "both" / "model.safetensors").exists()
    assert f"{hub.endpoint}/{OWNER}/both/tree/" in said
    held = hub.state.read("models", f"{OWNER}/both")
    assert {"model.safetensors", "tokenizer.json", "config.json"} < set(held)
    card = held["README.md"].decode()
    assert "- task_arithmetic" in card
    assert f'from_pretrained("{OWNER}/both")' in card
    assert "| `github` | Repositories of GitHub |" in card
    assert b"my-expert" in held["mergekit_config.yml"]
    for name, content in held.items():
        assert str(tmp_path).encode() not in content, name
    assert "nothing has changed" in mdel("merge", "--recipe", str(path), "--hf-repo", "both")
    assert len(hub.commits("models", f"{OWNER}/both")) == 1


def test_mistakes_are_refused_before_anything_is_written(mdel, hub, tmp_path, monkeypatch):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "me.jpg").write_bytes(b"x")
    for words, told in (
        (["-e", "github"], "at least two models"),
        (["-e", "github", "-e", "enron"], "no training document of that domain"),
        (["-e", "github", "-e", str(tmp_path / "nowhere")], "Nor is there a folder"),
        (["-e", "github", "-e", "arxiv", "--output", str(foreign)], "not a merged model"),
        ([], "Give -e at least twice"),
    ):
        assert told in mdel("merge", *words, fails=True)
    assert (foreign / "me.jpg").exists()
    monkeypatch.delenv("HF_TOKEN")
    words = ["-e", "github", "-e", "arxiv", "--hf-repo", "x", "--output", str(tmp_path / "out")]
    assert "There is no token" in mdel("merge", *words, fails=True)
    assert not (tmp_path / "out").exists()
    assert hub.state.repositories() == []


@pytest.mark.in_use
def test_a_merge_is_repeated_by_its_recipe_and_known_by_its_record(mdel, own_home, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("{merge_method: slerp, base_model: seed, parameters: {t: 0.3}}")
    mdel("merge", "-e", "github", "--recipe", str(recipe), "--output", str(first))
    mdel("merge", "--recipe", str(first / "mergekit_config.yml"), "--output", str(again))
    one, other = (load_file(folder / "model.safetensors") for folder in (first, again))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    card = (first / "README.md").read_text()
    assert str(own_home.root) not in card
    assert "- model: expert-github" in card
    record = json.loads((first / "record.json").read_text())
    expert = own_home.root / "pico" / "models" / "experts" / "github" / "record.json"
    fingerprint = json.loads(expert.read_text())["fingerprint"]
    assert record["inputs"]["expert_model 'github'"] == fingerprint
    mdel("merge", "-e", "github", "-e", "arxiv")
    said = mdel("forget", "--domain", "github", "--delete", "--yes")
    assert "derived    one_off_merge " in said
    assert not list((own_home.root / "merges").glob("[!.]*"))


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("words", "recipe", "told"),
    [
        (["-e", "githb", "-e", "arxiv"], "", "Unknown model 'githb'. Did you mean 'github'?"),
        (["-e", "a/b/c", "-e", "arxiv"], "", "Nor is there a folder of that name"),
        (["-e", "/nowhere", "-e", "arxiv"], "", "a Hub id is OWNER/NAME or OWNER/NAME@REVISION"),
        (["-e", "EMPTY", "-e", "arxiv"], "", "holds no model: it has no *.safetensors file"),
        (
            ["-e", "github", "-e", "arxiv", "--hf-repo", "a--b"],
            "",
            "is not allowed as a name on the Hub",
        ),
        ([], "{merge_metod: linear}", "Unknown key 'merge_metod'. Did you mean 'merge_method'?"),
        (
            [],
            "{merge_method: linear, models: [{model: seed, parameters: {wieght: 1}}]}",
            "Unknown key 'wieght'. Did you mean 'weight'?",
        ),
        ([], "{models: [{model: seed}]}", "merge_method: is required"),
    ],
)
def test_a_mistake_is_told_in_words_that_help(mdel, tmp_path, words, recipe, told):
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    if recipe:
        (tmp_path / "recipe.yml").write_text(recipe)
        words += ["--recipe", str(tmp_path / "recipe.yml")]
    output = tmp_path / "out"
    said = mdel("merge", *words, "--output", str(output), fails=True)
    assert told in said
    assert "Extra inputs" not in said
    assert not output.exists()


@pytest.mark.in_use
def test_two_merges_into_one_folder_are_made_one_after_the_other(mdel, tmp_path, caplog):
    words = ("merge", "-e", "github", "-e", "arxiv", "--output", str(tmp_path / "both"))
    with ThreadPoolExecutor(1) as threads:
        with making(one_off_artifact(tmp_path / "both", experiment="pico")):
            other = threads.submit(mdel, *words)
            wait_until(lambda: "waiting for one_off_merge, which process" in caplog.text)
            assert not (tmp_path / "both").exists()
        assert f"in {tmp_path / 'both'}" in other.result()
    assert (tmp_path / "both" / "model.safetensors").exists()


@pytest.mark.in_use
def test_what_cannot_be_published_is_refused_before_it_is_merged(mdel, hub, tmp_path, monkeypatch):
    words = ("merge", "-e", "github", "-e", "arxiv", "--output", str(tmp_path / "out"))
    mdel("forget", "--domain", "arxiv", "--mark")
    assert "is marked as forgotten (" in mdel(*words, "--hf-repo", "both", fails=True)
    monkeypatch.delenv("HF_TOKEN")
    for name in ("bad name", f"{OWNER}/a/b", "a--b"):
        said = mdel(*words, "--hf-repo", name, fails=True)
        assert f"'{name.rpartition('/')[0]}" in said or name in said
        assert "There is no token" not in said
    assert not (tmp_path / "out").exists()
    assert hub.state.repositories() == []


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("words", "told"),
    [(["expert", "arxvi"], "Did you mean 'arxiv'"), (["merged", "piar"], "Did you mean 'pair'")],
)
def test_a_misspelt_key_is_told_before_a_missing_token(mdel, monkeypatch, words, told):
    monkeypatch.delenv("HF_TOKEN")
    assert told in mdel("publish", *words, fails=True)


def test_a_search_outside_of_an_experiment_is_refused(mdel, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{merge_method: task_arithmetic, mdel: {search: {}}}")
    experts = ("-e", "github", "-e", "arxiv")
    output = str(tmp_path / "out")
    said = mdel("merge", *experts, "--recipe", str(recipe), "--output", output, fails=True)
    assert "A search for weights needs an experiment's validation text" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_merges_and_sends_nothing(mdel, hub):
    said = mdel("merge", "-e", "github", "-e", "arxiv", "--hf-repo", f"{OWNER}/m", "--dry-run")
    assert f"model {OWNER}/m on {hub.endpoint}: would be created" in said
    assert hub.state.repositories() == []


def test_everything_of_a_kind_is_published(mdel, hub):
    assert "would be created" in mdel("publish", "expert", "--dry-run")
    assert hub.state.repositories() == []
    assert f"{OWNER}/expert-freelaw/tree/" in mdel("publish", "expert")
    mdel("publish", "merged", "pair")
    names = [name.removeprefix(f"{OWNER}/") for _, name in hub.state.repositories()]
    assert names == ["expert-arxiv", "expert-freelaw", "expert-github", "pair"]
    assert "Did you mean 'arxiv'" in mdel("publish", "expert", "arxvi", fails=True)


@pytest.mark.in_use
def test_all_that_exist_are_published_whatever_is_missing_or_fails(mdel, hub, own_home):
    experts = own_home.root / "pico" / "models" / "experts"
    shutil.rmtree(experts / "github")
    (experts / "arxiv" / "model.safetensors").write_bytes(b"junk")
    told = mdel("publish", "expert", fails=True)
    assert f"expert   {'github':24} is not made: left out" in told
    assert "expert_model 'arxiv' is damaged" in told
    assert "1 of 2 failed: arxiv." in told
    assert hub.state.repositories() == [("models", f"{OWNER}/expert-freelaw")]
    named = mdel("publish", "expert", "github", "freelaw", fails=True)
    assert "expert_model 'github' is missing" in named
    assert f"{OWNER}/expert-freelaw/tree/" in named


@pytest.mark.in_use
def test_a_merge_that_is_repeated_by_its_recipe_is_judged_as_the_first(mdel, hub, tmp_path):
    both, again = tmp_path / "both", tmp_path / "again"
    mdel("merge", "-e", "github", "-e", "arxiv", "--output", str(both))
    words = ("merge", "--recipe", str(both / "mergekit_config.yml"), "--output", str(again))
    mdel(*words, "--hf-repo", "both")
    first, other = (json.loads((each / "record.json").read_text()) for each in (both, again))
    assert first["inputs"] == other["inputs"] != {}
    card = hub.state.read("models", f"{OWNER}/both")["README.md"].decode()
    assert "| `github` | Repositories of GitHub |" in card
    assert f"published  model {OWNER}/both on" in mdel("forget", "--domain", "arxiv")
    mdel("forget", "--domain", "arxiv", "--mark")
    assert "is marked as forgotten (" in mdel(*words, "--hf-repo", "anew", fails=True)
    assert hub.state.repositories() == [("models", f"{OWNER}/both")]


@pytest.mark.in_use
def test_ctrl_c_during_the_wait_for_one_publishes_none_of_the_others(mdel, hub, finished, own_home):
    class Teller(logging.Handler):
        def emit(self, record):
            os.kill(os.getpid(), signal.SIGINT)

    logger, teller = logging.getLogger("mdel_assets.line.locks"), Teller()
    logger.addHandler(teller)
    try:
        with making(own_home.lineage(finished[0]).artifact("expert_model", "arxiv")):
            told = mdel("publish", "expert", "arxiv", "github", fails=True)
    finally:
        logger.removeHandler(teller)
    assert "Told to end (SIGINT) while waiting for expert_model 'arxiv'" in told
    assert hub.state.repositories() == []
