"""Merges of slices, against mergekit's own runs on the same files, and by hand."""

import json

import pytest
import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file

from mdel_assets.errors import MergeError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.merging.members import members_of, recipe_config
from mdel_assets.merging.one_off import one_off_recipes
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets.publishing.one_off_merge import make_one_off, plan_merge
from mdel_assets_tests.conftest import pico_experiment

# Values that differ between layers and kinds of tensors; what lies outside the layers has one.
GRADIENTS = """
      - {filter: self_attn, value: [0.1, 0.5, 0.3, 0.7, 1.0]}
      - {filter: mlp, value: [1.0, 0.25]}
      - {value: 0.5}
"""
RECIPES = {
    "layers of two models stacked": """
        merge_method: passthrough
        slices:
          - sources: [{model: A, layer_range: [0, 3]}]
          - sources: [{model: B, layer_range: [1, 4]}]
    """,
    "one model's layers repeated": """
        merge_method: passthrough
        slices:
          - sources: [{model: A, layer_range: [0, 3]}]
          - sources: [{model: A, layer_range: [1, 4]}]
    """,
    "repeated layers whose outputs are scaled to nothing": """
        merge_method: passthrough
        slices:
          - sources: [{model: A, layer_range: [0, 4]}]
          - sources:
              - model: A
                layer_range: [3, 4]
                parameters:
                  scale:
                    - {filter: o_proj, value: 0.0}
                    - {filter: down_proj, value: 0.0}
                    - {value: 1.0}
          - sources: [{model: B, layer_range: [3, 4]}]
    """,
    "a mean of layers at other places": """
        merge_method: linear
        slices:
          - sources:
              - {model: A, layer_range: [0, 2], parameters: {weight: 0.3}}
              - {model: B, layer_range: [2, 4], parameters: {weight: 0.9}}
          - sources: [{model: C, layer_range: [1, 4]}]
        parameters: {weight: 1.0}
    """,
    "a slice with a parameter of its own": """
        merge_method: linear
        slices:
          - sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 2]}]
            parameters: {normalize: false, weight: 0.25}
          - sources: [{model: A, layer_range: [2, 4]}, {model: B, layer_range: [2, 4]}]
        parameters: {weight: 0.75}
    """,
    "gradients inside slices": f"""
        merge_method: linear
        slices:
          - sources:
              - model: A
                layer_range: [0, 3]
                parameters:
                  weight: {GRADIENTS.replace(chr(10), chr(10) + " " * 16)}
              - {{model: B, layer_range: [0, 3], parameters: {{weight: 0.4}}}}
          - sources:
              - {{model: B, layer_range: [3, 4], parameters: {{weight: 0.4}}}}
              - model: C
                layer_range: [3, 4]
                parameters:
                  weight: {GRADIENTS.replace(chr(10), chr(10) + " " * 16)}
    """,
    "task vectors from a base in each slice": """
        merge_method: task_arithmetic
        base_model: A
        slices:
          - sources:
              - {model: A, layer_range: [0, 2]}
              - {model: B, layer_range: [0, 2], parameters: {weight: 0.3}}
              - {model: C, layer_range: [0, 2], parameters: {weight: 0.6}}
          - sources:
              - {model: A, layer_range: [1, 4]}
              - {model: C, layer_range: [1, 4], parameters: {weight: 0.7}}
        parameters: {lambda: 0.8}
    """,
    "trimmed task vectors with a gradient of density": """
        merge_method: ties
        base_model: A
        slices:
          - sources:
              - {model: A, layer_range: [0, 4]}
              - model: B
                layer_range: [0, 4]
                parameters: {weight: 0.5, density: [{filter: mlp, value: [0.2, 0.9]}, {value: 0.5}]}
              - {model: C, layer_range: [0, 4], parameters: {weight: 0.5, density: 0.6}}
    """,
    "a base for one slice": """
        merge_method: task_arithmetic
        base_model: A
        slices:
          - sources:
              - {model: A, layer_range: [0, 2]}
              - {model: C, layer_range: [0, 2], parameters: {weight: 0.5}}
          - base_model: B
            sources:
              - {model: B, layer_range: [2, 4]}
              - {model: C, layer_range: [2, 4], parameters: {weight: 0.5}}
    """,
}
SLERP = f"""
        merge_method: slerp
        base_model: A
        slices:
          - sources: [{{model: A, layer_range: [0, 4]}}, {{model: B, layer_range: [0, 4]}}]
        parameters:
          t: {GRADIENTS.replace(chr(10), chr(10) + " " * 12)}
"""


def written(text, models):
    """Return a recipe's content with its models' folders, computed in fp32 by mergekit, too."""

    def placed(value):
        if isinstance(value, dict):
            return {key: placed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [placed(one) for one in value]
        return str(models[value]) if value in models else value

    return placed(yaml.safe_load(text)) | {"dtype": "float32"}


def ours(content, folder, **options):
    """Merge by a recipe file as `mdel merge` reads it."""
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(content))
    recipe = one_off_recipes([], path).final
    members = members_of(recipe, name="test", domains=[], random_numbers=[])
    inputs = [
        MergeInput(member.name, folder / member.name, member.parameters) for member in members
    ]
    has_base = members.base is not None
    out = folder / "ours"
    out.mkdir()
    merge_models(
        recipe,
        inputs[:-1] if has_base else inputs,
        out,
        base=inputs[-1] if has_base else None,
        members=members,
        model_folder=inputs[-1 if has_base else 0].folder,
        **options,
    )
    return load_file(out / "model.safetensors")


def peers(content, folder):
    config = MergeConfiguration.model_validate(content)
    run_merge(config, str(folder / "peer"), MergeOptions(copy_tokenizer=False, quiet=True))
    return load_file(folder / "peer" / "model.safetensors")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("out_dtype", ["float32", "float16", "bfloat16"])
def test_slices_are_mergekits_to_the_bit(name, out_dtype, models, tmp_path):
    content = written(RECIPES[name], models) | {"out_dtype": out_dtype}
    found, expected = ours(content, tmp_path), peers(content, tmp_path)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
    for tensor, values in found.items():
        assert torch.equal(values, expected[tensor]), tensor


def test_an_arc_with_gradients_is_mergekits_up_to_its_rounding(models, tmp_path):
    content = written(SLERP, models)
    found, expected = ours(content, tmp_path), peers(content, tmp_path)
    for tensor, values in found.items():
        torch.testing.assert_close(values, expected[tensor], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(RECIPES)[:4])
def test_what_slices_make_loads_and_has_as_many_layers(name, models, tmp_path):
    tensors = ours(written(RECIPES[name], models), tmp_path)
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    count = len({n.split(".")[2] for n in tensors if n.startswith("model.layers.")})
    assert loaded.config.num_hidden_layers == len(loaded.model.layers) == count


def test_repeated_layers_that_add_nothing_leave_a_model_as_it_was(models, tmp_path):
    """A block whose two output matrices are zero adds zero to the residual stream."""
    text = """
        merge_method: passthrough
        slices:
          - sources: [{model: A, layer_range: [0, 4]}]
          - sources:
              - model: B
                layer_range: [1, 3]
                parameters:
                  scale:
                    - {filter: o_proj, value: 0.0}
                    - {filter: down_proj, value: 0.0}
                    - {value: 1.0}
    """
    content = written(text, models)
    # What lies after the layers is the last slice's.
    content["slices"].append({"sources": [{"model": str(models["A"]), "layer_range": [3, 4]}]})
    content["slices"][0]["sources"][0]["layer_range"] = [0, 3]
    ours(content, tmp_path)
    ids = torch.arange(20)[None]
    both = [
        transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        for folder in (models["A"], tmp_path / "ours")
    ]
    assert torch.equal(*both)


def test_an_experts_layer_is_not_taken_for_the_seeds_at_another_place(models, tmp_path):
    """Two layers that no expert trained are the seed's both, and differ."""
    content = written(RECIPES["a mean of layers at other places"], models)
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(content))
    recipe = one_off_recipes([], path).final
    members = members_of(recipe, name="test", domains=[], random_numbers=[])
    inputs = [
        MergeInput(member.name, models["A"], member.parameters, trained_prefixes=())
        for member in members
    ]
    (tmp_path / "out").mkdir()
    merge_models(
        recipe, inputs, tmp_path / "out", members=members, model_folder=models["A"], num_threads=1
    )
    seed, merged = (load_file(f / "model.safetensors") for f in (models["A"], tmp_path / "out"))
    name = "model.layers.{}.mlp.up_proj.weight"
    expected = (0.3 * seed[name.format(0)] + 0.9 * seed[name.format(2)]) / 1.2
    torch.testing.assert_close(merged[name.format(0)], expected, rtol=0, atol=1e-7)


def test_lists_with_an_entry_for_each_layer_follow_the_layers(models, tmp_path):
    for folder in models.values():
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(
            json.dumps(config | {"layer_kinds": [f"{folder.name}{n}" for n in range(4)]})
        )
    ours(written(RECIPES["layers of two models stacked"], models), tmp_path)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["layer_kinds"] == ["A0", "A1", "A2", "B1", "B2", "B3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_range": [2, 2]}, "holds no layer"),
        ({"layer_range": [2, 5]}, "which has 4 layers"),
        ({"layer_range": [2]}, "slices.0.sources.0.layer_range"),
        ({"layer_rang": [0, 1]}, "Did you mean 'layer_range'"),
    ],
)
def test_slices_that_cannot_be_are_refused(change, message, models, tmp_path):
    content = written(RECIPES["layers of two models stacked"], models)
    content["slices"][0]["sources"][0] |= change
    with pytest.raises(MergeError, match=message.replace("'", ".")):
        ours(content, tmp_path)


MODULES = """
    merge_method: linear
    modules:
      default:
        parameters: {weight: 0.25}
        slices:
          - sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 2]}]
            parameters: {normalize: false}
          - sources:
              - {model: A, layer_range: [2, 4]}
              - {model: B, layer_range: [2, 4], parameters: {weight: 0.5}}
    parameters: {weight: 1.0, normalize: true}
"""


def test_one_module_is_mergekits_to_the_bit(models, tmp_path):
    content = written(MODULES, models)
    found, expected = ours(content, tmp_path), peers(content, tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(values, expected[name]) for name, values in found.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": {"encoder": {}, "decoder": {}}}, "expected one module, got decoder, encoder"),
        ({"modules": {}}, "expected one module, got none"),
        ({"slices": []}, "'slices' stands both inside and outside"),
    ],
)
def test_other_modules_are_refused(change, message, models, tmp_path):
    with pytest.raises(MergeError, match=message):
        ours(written(MODULES, models) | change, tmp_path)


def test_sources_of_a_slice_with_unequal_numbers_of_layers_are_refused(models, tmp_path):
    content = written(RECIPES["a slice with a parameter of its own"], models)
    content["slices"][1]["sources"][0]["layer_range"] = [3, 4]
    with pytest.raises(
        MergeError, match=r"slices\[1\]: its sources differ in their number of layers"
    ):
        ours(content, tmp_path)


def test_slices_of_models_of_different_widths_are_refused(models, tmp_path):
    config = transformers.AutoConfig.from_pretrained(models["A"])
    config.hidden_size = 32
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    content = written(RECIPES["layers of two models stacked"], models)
    content["slices"][1]["sources"][0]["model"] = str(tmp_path / "wide")
    with pytest.raises(MergeError, match="These slices do not fit each other"):
        ours(content, tmp_path)


def test_models_and_slices_at_once_or_neither_are_refused(models, tmp_path):
    content = written(RECIPES["layers of two models stacked"], models)
    with pytest.raises(MergeError, match="either 'models' or 'slices': this one has both"):
        ours(content | {"models": [{"model": str(models["A"])}]}, tmp_path)
    del content["slices"]
    with pytest.raises(MergeError, match="this one has neither"):
        ours(content, tmp_path)


def test_other_layers_are_another_identity(corpus):
    recipe = yaml.safe_load(RECIPES["layers of two models stacked"])
    for part, model in zip(recipe["slices"], ("expert:github", "seed"), strict=True):
        part["sources"][0] |= {"model": model, "layer_range": [0, 2]}
    first = pico_experiment(corpus, merges={"stacked": recipe}).merges["stacked"]
    recipe["slices"][1]["sources"][0]["layer_range"] = [1, 3]
    second = pico_experiment(corpus, merges={"stacked": recipe}).merges["stacked"]
    configs = [
        recipe_config(
            one, members_of(one, name="x", domains=["github"], random_numbers=[]), digests={}
        )
        for one in (first, second)
    ]
    assert configs[0] != configs[1]


def test_a_merge_of_slices_is_repeated_by_the_recipe_that_it_writes(models, tmp_path):
    content = written(RECIPES["a base for one slice"], models)
    (tmp_path / "first.yml").write_text(yaml.safe_dump(content))
    merged = []
    for name in ("first", "again"):
        recipes = one_off_recipes([], tmp_path / f"{name}.yml")
        lineage = MdelHome(tmp_path / "home").lineage(load_experiment("sample"))
        make_one_off(lineage, plan_merge(lineage, recipes), tmp_path / name)
        (tmp_path / "again.yml").write_text((tmp_path / name / "mergekit_config.yml").read_text())
        merged.append((tmp_path / name / "model.safetensors").read_bytes())
    assert merged[0] == merged[1]
