"""Merges in stages, by one file of several documents and by recipes of an experiment."""

import shutil

import click.testing
import pytest
import torch
import yaml
from mergekit.scripts.multimerge import main as multimerge
from safetensors.torch import load_file

from mdel_assets.errors import MdelError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.merging.one_off import one_off_recipes
from mdel_assets.merging.recipe_members import members_of_all_stages
from mdel_assets.publishing.one_off_merge import make_one_off, plan_merge
from mdel_assets_tests.conftest import pico_experiment

TWO_STAGES = """
name: near
merge_method: linear
models: [{model: A, parameters: {weight: 0.25}}, {model: B, parameters: {weight: 0.75}}]
dtype: float32
out_dtype: float16
---
name: far
merge_method: task_arithmetic
base_model: A
models: [{model: near, parameters: {weight: 1.5}}]
dtype: float32
---
merge_method: linear
models: [{model: near, parameters: {weight: 1}}, {model: far, parameters: {weight: 3}}]
dtype: float32
"""


@pytest.fixture
def merge(tmp_path):
    """Return a function that merges by a text as `mdel merge --recipe` does."""

    def run(text, name):
        (tmp_path / f"{name}.yml").write_text(text)
        lineage = MdelHome(tmp_path / "home").lineage(load_experiment("sample"))
        recipes = one_off_recipes([], tmp_path / f"{name}.yml")
        make_one_off(lineage, plan_merge(lineage, recipes), tmp_path / name)
        return tmp_path / name

    return run


def placed(text, models):
    for name, folder in models.items():
        text = text.replace(f"model: {name},", f"model: {folder},")
        text = text.replace(f"base_model: {name}\n", f"base_model: {folder}\n")
    return text


def test_stages_of_one_file_are_mergekits_to_the_bit(merge, models, tmp_path):
    text = placed(TWO_STAGES, models)
    ours = load_file(merge(text, "ours") / "model.safetensors")
    out, between = tmp_path / "peer", tmp_path / "between"
    words = [str(tmp_path / "ours.yml"), "--out-path", str(out), "-I", str(between)]
    done = click.testing.CliRunner().invoke(multimerge, [*words, "--no-copy-tokenizer"])
    assert done.exit_code == 0, done.output
    expected = load_file(out / "model.safetensors")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_a_merge_in_stages_is_repeated_by_the_recipe_that_it_writes(merge, models):
    first = merge(placed(TWO_STAGES, models), "first")
    again = merge((first / "mergekit_config.yml").read_text(), "again")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert "model.safetensors" in names
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, again)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO_STAGES.replace("name: far", "name: near"), "'near' names 2 documents"),
        (TWO_STAGES.replace("name: near\n", "").replace("model: near", "model: A"), "no name"),
        (TWO_STAGES.replace("model: A,", "model: far,"), "'near' is made from itself, through"),
        (TWO_STAGES.replace("name: near", "name: nearer"), "Unknown model 'near'"),
        (TWO_STAGES + "---\n- a list\n", "must be a mapping"),
    ],
)
def test_stages_that_cannot_be_are_refused(text, message, merge, models, tmp_path):
    with pytest.raises(MdelError, match=message):
        merge(placed(text, models), "wrong")
    assert not (tmp_path / "wrong").exists()


RECIPES = """
pair:
  merge_method: linear
  models:
    - {model: "expert:github", parameters: {weight: 1}}
    - {model: seed, parameters: {weight: 3}}
both:
  merge_method: task_arithmetic
  models:
    - {model: "merged:pair", parameters: {weight: 2.0}}
    - {model: "expert:arxiv", parameters: {weight: 0.5}}
"""


@pytest.fixture(scope="module")
def staged(branched, corpus, tmp_path_factory):
    """Return the lineage of a line with a merge in two stages, of which only the last is made."""
    _, home = branched
    folder = tmp_path_factory.mktemp("staged") / "home"
    shutil.copytree(home.root, folder)
    experiment = pico_experiment(corpus, merges=yaml.safe_load(RECIPES), baselines={})
    lineage = MdelHome(folder).lineage(experiment)
    for domain in ("github", "arxiv"):
        make_one(lineage, "expert_model", domain)
    make_one(lineage, "merged_model", "both")
    return lineage


def test_an_experiments_recipe_may_take_what_another_makes(staged):
    folder = staged.folder("merged_model", "both")
    merged, seed, github, arxiv = (
        load_file(each / "model.safetensors")
        for each in (
            folder,
            staged.folder("seed_model"),
            staged.folder("expert_model", "github"),
            staged.folder("expert_model", "arxiv"),
        )
    )
    for name, own in seed.items():
        pair = (github[name] + 3 * own) / 4
        expected = own + 2.0 * (pair - own) + 0.5 * (arxiv[name] - own)
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert not staged.folder("merged_model", "pair").exists()
    first, final = yaml.safe_load_all((folder / "mergekit_config.yml").read_text())
    assert first["name"] == "pair"
    assert [entry["model"] for entry in final["models"]] == ["pair", "expert-arxiv"]


def test_what_a_stage_is_made_of_counts(staged, corpus):
    record = staged.artifact("merged_model", "both").require()
    assert set(record.inputs) == {"seed_model", "expert_model 'github'", "expert_model 'arxiv'"}
    assert staged.stale("merged_model", "both") is None
    changed = yaml.safe_load(RECIPES.replace("weight: 3", "weight: 2"))
    experiment = pico_experiment(corpus, merges=changed, baselines={})
    assert MdelHome(staged.root.parent).lineage(experiment).stale("merged_model", "both")
    names = {member.name for member in members_of_all_stages(staged, "both")}
    assert names == {"expert-github", "seed", "expert-arxiv"}
    card = (staged.folder("merged_model", "both") / "README.md").read_text()
    assert "expert_model 'github'" in card
