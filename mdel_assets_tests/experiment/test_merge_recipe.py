"""What a recipe may say, what it comes to for a tensor, and how mistakes in it are refused."""

from pathlib import Path

import pytest
import torch
import yaml

from mdel_assets.errors import ExperimentError, MdelError, MergeError
from mdel_assets.experiment.loading import parse_experiment
from mdel_assets.experiment.merge_recipe import MergeRecipe, settings_for
from mdel_assets.merge_methods import METHODS
from mdel_assets.merging.members import (
    folder_digest,
    members_of,
    resolved_recipe,
    with_weights,
)
from mdel_assets.merging.one_off import one_off_recipes
from mdel_assets.store.tensor_names import Layers, matches_filter
from mdel_assets_tests.conftest import PICO
from mdel_assets_tests.merging.folders import ONE, TWO, merge, merged_tensors, save_folder

NAMES = [
    "gpt_neox.embed_in.weight",
    *(f"gpt_neox.layers.{n}.{part}" for n in range(13) for part in ("mlp.w", "attention.w")),
    "gpt_neox.final_layer_norm.weight",
    "embed_out.weight",
]


def parse(text):
    """Read a recipe as an experiment's YAML holds it."""
    content = PICO | {"source": {"train": ["a.jsonl.zst"]}, "merges": {"m": yaml.safe_load(text)}}
    return parse_experiment(yaml.safe_dump(content), origin="test.yaml").merges["m"]


def weights(recipe, name, models=("a", "b")):
    layers = Layers.of(NAMES)
    given = [entry.parameters.given() for entry in recipe.models]
    entries = list(zip(models, given, strict=True))
    depth = layers.depth_of(name)
    return settings_for(recipe, entries, name=name, shape=(2,), depth=depth).weights


MERGEKITS_OWN = """
merge_method: ties
base_model: seed
models:
  - model: expert:github
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: expert:arxiv
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: seed
parameters:
  normalize: true
  int8_mask: true
  lambda: 1e-1
dtype: float16
"""


def test_a_recipe_of_mergekits_documentation_is_understood():
    recipe = parse(MERGEKITS_OWN)
    assert recipe.dtype_of_output == "float16"
    settings = settings_for(
        recipe,
        [(entry.model, entry.parameters.given()) for entry in recipe.models[:2]],
        name="layers.1.w",
        shape=(2, 2),
        depth=0.5,
    )
    assert settings.of_models["density"] == pytest.approx((0.7, 0.5))
    assert settings.weights == pytest.approx((1.0, 0.5))
    assert settings.shared == {"normalize": True, "rescale": False, "lambda": 0.1}


def test_a_gradient_runs_over_depth_and_gives_the_head_the_last_layers_value():
    recipe = parse(
        "{merge_method: linear, models: [{model: seed, parameters: {weight: [0, 6, 12]}},"
        " {model: expert:github, parameters: {weight: [1, 0]}}]}"
    )
    found = {name: weights(recipe, name) for name in NAMES}
    for layer in range(13):
        expected = (float(layer), 1 - layer / 12)
        assert found[f"gpt_neox.layers.{layer}.mlp.w"] == pytest.approx(expected)
    assert found["gpt_neox.embed_in.weight"] == (0.0, 1.0)
    assert found["gpt_neox.final_layer_norm.weight"] == (12.0, 0.0)
    assert found["embed_out.weight"] == (12.0, 0.0)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("model.embed_tokens.weight", 0.0),
        ("transformer.wte.weight", 0.0),
        ("transformer.wpe.weight", 0.0),
        ("transformer.word_embeddings.weight", 0.0),
        ("lm_head.weight", 1.0),
        ("embed_out.weight", 1.0),
        ("model.norm.weight", 1.0),
        ("transformer.ln_f.bias", 1.0),
        ("model.layers.0.mlp.experts.3.w1.weight", 0.0),
    ],
)
def test_depth_is_read_off_names(name, depth):
    names = [f"model.layers.{n}.mlp.experts.{e}.w1.weight" for n in range(3) for e in range(8)]
    assert Layers.of(names) == Layers("model.layers.", 3)
    assert Layers.of(names).depth_of(name) == depth


def test_the_first_filter_that_matches_counts():
    recipe = parse(
        """
        merge_method: linear
        models:
          - model: seed
            parameters:
              weight:
                - {filter: layers.1, value: 5}
                - {filter: mlp, value: [1, 3]}
                - {value: 7}
          - {model: expert:github}
        parameters: {weight: 2}
        """
    )
    assert weights(recipe, "gpt_neox.layers.1.mlp.w") == (5.0, 2.0)
    assert weights(recipe, "gpt_neox.layers.12.mlp.w") == (3.0, 2.0)
    assert weights(recipe, "gpt_neox.layers.12.attention.w") == (7.0, 2.0)


def test_a_filter_takes_numbers_whole():
    assert matches_filter("layers.1", "model.layers.1.mlp.w")
    assert not matches_filter("layers.1", "model.layers.12.mlp.w")
    assert not matches_filter("1.mlp", "model.layers.11.mlp.w")
    assert matches_filter("layernorm", "model.layers.3.input_layernorm.weight")
    assert matches_filter("*", "anything")


def test_a_tensor_that_no_filter_matches_is_an_error():
    recipe = parse(
        "{merge_method: linear, models: [{model: seed, parameters: {weight: {filter: mlp,"
        " value: 1}}}, {model: expert:github}]}"
    )
    with pytest.raises(MergeError, match="No filter of 'weight' of a matches the tensor embed_out"):
        weights(recipe, "embed_out.weight")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{merge_method: tis, models: [{model: seed}]}", "'tis'. Did you mean 'ties'"),
        ("{merge_metod: ties, models: [{model: seed}]}", "Did you mean 'merge_method'"),
        (
            "{merge_method: linear, models: [{model: seed}], parameters: {lamda: 1}}",
            "Did you mean 'lambda'",
        ),
        (
            "{merge_method: linear, models: [{model: seed, parameters: {wight: 1}}]}",
            "Did you mean 'weight'",
        ),
        (
            "{merge_method: linear, models: [{model: seed, parameters: {density: 1}}]}",
            "'linear' has no parameter 'density'. Known: weight, normalize",
        ),
        (
            "{merge_method: karcher, models: [{model: x}], parameters: {tol: {filtr: w}}}",
            "Did you mean 'filter'",
        ),
        (
            "{merge_method: linear, models: [{model: seed}], mdel: {sed: 1}}",
            "Did you mean 'seed'",
        ),
        (
            "{merge_method: linear, modules: {}, models: [{model: seed}]}",
            "modules: expected one module, got none",
        ),
        (
            "{merge_method: ties, base_model: 'expert:arxv', models: [{model: seed}]}",
            "Did you mean 'arxiv'",
        ),
        (
            "{merge_method: linear, base_model: seed, models: [{model: seed}]}",
            "'linear' takes no base_model",
        ),
        ("{merge_method: slerp, models: [{model: seed}]}", "'slerp' needs parameters.t"),
        (
            "{merge_method: linear, models: [{model: seed, parameters: {weight: heavy}}]}",
            "expected a number, a list of numbers",
        ),
        (
            "{merge_method: linear, models: [{model: seed}], parameters: {normalize: [true]}}",
            "expected true, false",
        ),
    ],
)
def test_mistakes_are_refused_with_the_remedy(recipe, message):
    with pytest.raises(MdelError) as refused:
        parse(recipe)
    assert isinstance(refused.value, ExperimentError)
    assert message in str(refused.value)


SEARCHED = "{merge_method: task_arithmetic, models: [{model: 'expert:*'}], mdel: {search: %s}}"
BARE = "{merge_method: %s, models: [{model: 'expert:*'}], mdel: {search: {}}, %s}"


def test_a_search_becomes_a_recipe_when_its_weights_are_known():
    recipe = parse(SEARCHED % "{num_trials: 20, layer_groups: 2}")
    assert recipe.mdel.search.num_trials == 20
    members = members_of(recipe, name="m", domains=["arxiv", "github"], random_numbers=[])
    by_layer = [{"filter": "layers.1.", "value": 0.25}, {"value": 0.5}]
    weighted = with_weights(members, {"expert-arxiv": 0.75, "expert-github": by_layer})
    written = yaml.safe_load(yaml.safe_dump(resolved_recipe(recipe.without_search(), weighted)))
    assert written == {
        "merge_method": "task_arithmetic",
        "base_model": "seed",
        "models": [
            {"model": "expert-arxiv", "parameters": {"weight": 0.75}},
            {"model": "expert-github", "parameters": {"weight": by_layer}},
        ],
    }
    # What is written is a recipe like any other.
    again = MergeRecipe.model_validate(written)
    assert weights(again, "gpt_neox.layers.1.mlp.w") == (0.75, 0.25)
    assert weights(again, "gpt_neox.layers.12.mlp.w") == (0.75, 0.5)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (SEARCHED % "{num_trails: 9}", "Unknown key 'num_trails'. Did you mean 'num_trials'"),
        (SEARCHED % "{num_trials: 41}", "num_trials: expected 40 or less, got 41"),
        (SEARCHED % "{num_trials: 5}", "expected 8 or more"),
        (SEARCHED % "{layer_groups: 0}", "expected 1 or more"),
        (SEARCHED % "{num_documents: many}", "expected a whole number, got 'many'"),
        (BARE % ("ties", ""), "merge_method 'task_arithmetic' with the base 'seed'"),
        (BARE % ("task_arithmetic", "base_model: a/b"), "with the base 'a/b'"),
        (
            BARE % ("task_arithmetic", "parameters: {weight: 1, lambda: 0.5}"),
            "remove lambda, weight from the recipe",
        ),
    ],
)
def test_mistakes_in_a_search_are_refused_with_the_remedy(recipe, message):
    with pytest.raises(MdelError) as refused:
        parse(recipe)
    assert isinstance(refused.value, ExperimentError)
    assert message in str(refused.value)


def test_a_wrong_number_of_models_is_refused(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE})
    second = save_folder(tmp_path / "b", {"w": TWO})
    slerp = MergeRecipe.model_validate(
        {"merge_method": "slerp", "models": [{"model": "seed"}], "parameters": {"t": 0.5}}
    )
    with pytest.raises(MergeError, match=r"takes 1 models besides the base 'seed', .* has 2"):
        merge(tmp_path, slerp, first, second, base=first)


# mergekit reaches for a name that numpy has moved.
@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")
def test_members_are_written_out_and_the_base_is_not_among_them():
    from mergekit.config import MergeConfiguration

    recipe = parse(
        "{merge_method: ties, models: [{model: 'expert:*', parameters: {weight: [1, 2]}},"
        " {model: seed}]}"
    )
    members = members_of(recipe, name="m", domains=["arxiv", "github"], random_numbers=[])
    assert [member.name for member in members] == ["expert-arxiv", "expert-github", "seed"]
    assert members.base is not None
    assert members.base.name == "seed"
    written = yaml.safe_load(yaml.safe_dump(resolved_recipe(recipe, members)))
    assert written["models"] == [
        {"model": "expert-arxiv", "parameters": {"weight": [1.0, 2.0]}},
        {"model": "expert-github", "parameters": {"weight": [1.0, 2.0]}},
    ]
    # mergekit reads what lies beside the merged model, but for what is ours alone.
    assert MergeConfiguration.model_validate(written).base_model is not None


def test_a_model_that_is_nowhere_is_refused():
    with pytest.raises(MergeError, match="Correct the recipe"):
        folder_digest(Path("/nowhere"))


def test_a_wrong_number_of_models_is_refused_before_anything_is_trained():
    with pytest.raises(ExperimentError, match="'model_stock' takes at least 2 models besides"):
        parse("{merge_method: model_stock, models: [{model: expert:github}, {model: seed}]}")


def test_layers_can_be_taken_from_different_models(tmp_path):
    """The ancestor's block merge: layer 0 of one model, layer 1 of the other."""
    tensors = [{f"h.{n}.w": (n + 1) * t for n in range(2)} for t in (ONE, TWO)]
    first, second = (save_folder(tmp_path / n, t) for n, t in zip("ab", tensors, strict=True))
    recipe = MergeRecipe.model_validate({"merge_method": "linear", "models": [{"model": "seed"}]})
    forth = {"weight": ({"filter": "h.0", "value": 1.0}, {"value": 0.0})}
    back = {"weight": ({"filter": "h.0", "value": 0.0}, {"value": 1.0})}
    merge(tmp_path, recipe, (first, forth), (second, back))
    merged = merged_tensors(tmp_path)
    assert torch.equal(merged["h.0.w"], ONE)
    assert torch.equal(merged["h.1.w"], 2 * TWO)


def test_every_methods_parameters_can_be_set_in_a_recipe():
    values = {"t": 0.5, "max_iter": 3}
    for name, method in METHODS.items():
        flags = ("normalize", "rescale", "nuslerp_flatten", "normalize_weights", "filter_wise")
        given = {key: key in flags or values.get(key, 0.1) for key in method.parameters}
        recipe = MergeRecipe.model_validate(
            {"merge_method": name, "models": [{"model": "x"}], "parameters": given}
        )
        assert recipe.parameters.given() == given


@pytest.mark.in_use
def test_a_recipe_files_folders_are_looked_for_beside_it(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "shell" / "mine").mkdir(parents=True)
    path = tmp_path / "recipes" / "recipe.yml"
    path.write_text("{merge_method: linear, models: [{model: mine}, {model: owner/name}]}")
    monkeypatch.chdir(tmp_path / "shell")
    recipe = one_off_recipes([], path).final
    assert recipe.model_names == [str(tmp_path / "recipes" / "mine"), "owner/name"]
    path.write_text("{merge_method: linear, models: [{model: seed, wieght: 1}]}")
    with pytest.raises(MergeError, match=r"models\.0: Unknown key 'wieght'\. Known: model, para"):
        one_off_recipes([], path)
