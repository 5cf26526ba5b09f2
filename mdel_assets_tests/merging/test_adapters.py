"""Adapters as inputs of merges, against PEFT's own merging and mergekit's."""

import json

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mdel_assets.errors import MergeError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.experiment.merged_models import adapter_of
from mdel_assets.home import MdelHome
from mdel_assets.merging.one_off import one_off_recipes, shown_names
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets.publishing.one_off_merge import make_one_off, plan_merge
from mdel_assets.store.lora_files import Factors
from mdel_assets_tests.merging.folders import recipe_of
from mdel_assets_tests.merging.speakers import END, merge_ours, placed

LINEAR = {
    "gpt_neox": ["query_key_value", "dense", "dense_4h_to_h"],
    "llama": ["q_proj", "down_proj"],
    # The attention's c_proj is square, so that only the configuration says how it is stored.
    "gpt2": ["c_attn", "attn.c_proj", "mlp.c_proj"],
}


def save_adapter(model_folder, folder, family="llama", *, seed=0, **changes):
    """Save an adapter of random weights with PEFT; return its folder."""
    torch.manual_seed(seed)
    settings = {
        "task_type": "CAUSAL_LM",
        "r": 3,
        "lora_alpha": 5,
        "target_modules": LINEAR[family],
        "fan_in_fan_out": family == "gpt2",
        "init_lora_weights": False,
    }
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    adapted = get_peft_model(model, LoraConfig(**(settings | changes)))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def by_peft(model_folder, adapter):
    """Return the weights that PEFT merges, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.detach() for name, tensor in merged.named_parameters()}


def merged(tmp_path, recipe, inputs, *, out="out", **options):
    (tmp_path / out).mkdir()
    merge_models(recipe, inputs, tmp_path / out, model_folder=inputs[0].folder, **options)
    return load_file(tmp_path / out / "model.safetensors")


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"1.mlp.DOWN": 2}, "alpha_pattern": {"0.mlp.DOWN": 7, "DOWN": 9}},
        {"layers_to_transform": [1]},
    ],
)
def test_a_mean_with_an_adapter_is_that_with_the_model_that_peft_merges(
    make_model, tmp_path, family, changes
):
    base, other = make_model(family), make_model(family, seed=1)
    changes = json.loads(json.dumps(changes).replace("DOWN", LINEAR[family][-1].split(".")[-1]))
    adapter = save_adapter(base, tmp_path / "adapter", family, **changes)
    inputs = [MergeInput("a", base, adapter=adapter), MergeInput("b", other)]
    found = merged(tmp_path, recipe_of("linear"), inputs)
    expected, seconds = by_peft(base, adapter), load_file(other / "model.safetensors")
    moved = load_file(base / "model.safetensors")
    num_moved = 0
    for name, tensor in found.items():
        first = expected.get(name, expected.get("lm_head.weight"))
        assert (tensor - (first + seconds[name]) / 2).abs().max() < 1e-6, name
        num_moved += not first.equal(moved[name])
    layers = 1 if "layers_to_transform" in changes else 3
    assert num_moved == len(LINEAR[family]) * layers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bytes_do_not_depend_on_pieces_and_threads(make_model, tmp_path, dtype):
    base, other = make_model("llama", dtype=dtype), make_model("llama", seed=1, dtype=dtype)
    adapter = save_adapter(base, tmp_path / "adapter")
    inputs = [MergeInput("a", base, adapter=adapter), MergeInput("b", other)]
    found = [
        merged(
            tmp_path,
            recipe_of("ties", parameters={"density": 0.5}),
            inputs[:1],
            base=inputs[1],
            out=f"out-{piece}",
            largest_piece=piece,
            num_threads=threads,
        )
        for piece, threads in ((7, 1), (64, 2), (1 << 19, 2))
    ]
    for name, tensor in found[0].items():
        assert all(tensor.equal(other[name]) for other in found[1:])


@pytest.mark.parametrize("shape", [(5, 7), (300, 900), (2, 70_000)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_any_part_of_a_change_is_that_of_the_whole(shape, is_transposed):
    torch.manual_seed(0)
    rows, columns = shape
    out, inner = (columns, rows) if is_transposed else shape
    a, b = torch.randn(4, inner), torch.randn(out, 4)
    factors = Factors.of(a, b, scale=0.5, is_transposed=is_transposed)
    whole = torch.zeros(rows * columns)
    factors.add_to(whole)
    product = (b @ a).T if is_transposed else b @ a
    assert (whole - 0.5 * product.flatten()).abs().max() < 1e-5
    bounds = [0, 1, 3, columns - 1, columns, columns + 2, len(whole) // 2 + 1, len(whole)]
    for first, last in zip(sorted(bounds), sorted(bounds)[1:], strict=False):
        part = torch.zeros(last - first)
        factors.add_to(part, first=first)
        assert part.equal(whole[first:last])


def test_it_is_what_mergekit_makes_of_the_same_names(models, tmp_path):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    adapter = save_adapter(models["A"], tmp_path / "adapter")
    names = [f"{models['A']}+{adapter}", str(models["B"])]
    content = {
        "merge_method": "linear",
        "models": [
            {"model": n, "parameters": {"weight": w}} for n, w in zip(names, (3, 1), strict=True)
        ],
        "dtype": "float32",
    }
    config = MergeConfiguration.model_validate(content)
    options = MergeOptions(copy_tokenizer=False, lora_merge_cache=str(tmp_path / "cache"))
    run_merge(config, str(tmp_path / "theirs"), options)
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    inputs = [
        MergeInput("a", models["A"], {"weight": 3.0}, adapter=adapter),
        MergeInput("b", models["B"], {"weight": 1.0}),
    ]
    ours = merged(tmp_path, recipe_of("linear"), inputs)
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "uses use_dora, which is not supported here. Merge it with PEFT"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"bias": "lora_only"}, "uses bias: lora_only"),
    ],
)
def test_what_is_more_than_a_product_is_refused(make_model, tmp_path, changes, message):
    base = make_model("llama")
    adapter = save_adapter(base, tmp_path / "adapter", **changes)
    inputs = [MergeInput("a", base, adapter=adapter), MergeInput("b", base)]
    with pytest.raises(MergeError, match=message):
        merged(tmp_path, recipe_of("linear"), inputs)


def test_other_kinds_and_beginnings_that_change_the_base_are_refused(make_model, tmp_path):
    base = make_model("llama")
    adapter = save_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    content = json.loads(path.read_text())
    inputs = [MergeInput("a", base, adapter=adapter), MergeInput("b", base)]
    for number, (change, message) in enumerate(
        [
            ({"peft_type": "IA3"}, "is of type IA3; only LORA can be merged"),
            ({"init_lora_weights": "pissa"}, "uses init_lora_weights: pissa"),
        ]
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(MergeError, match=message):
            merged(tmp_path, recipe_of("linear"), inputs, out=f"out-{number}")
    path.unlink()
    with pytest.raises(MergeError, match=r"is not an adapter: it has no adapter_config\.json"):
        merged(tmp_path, recipe_of("linear"), inputs)


def test_an_adapter_of_another_model_is_refused(make_model, tmp_path):
    narrow, wide = make_model("llama"), make_model("llama", hidden_size=48)
    adapter = save_adapter(wide, tmp_path / "adapter")
    inputs = [MergeInput("narrow+adapter", narrow, adapter=adapter), MergeInput("b", narrow)]
    with pytest.raises(MergeError, match=r"output and \d+ input features, but its weight is"):
        merged(tmp_path, recipe_of("linear"), inputs)
    stored = load_file(adapter / "adapter_model.safetensors")
    named = {name.replace("layers.", "layers.9"): tensor for name, tensor in stored.items()}
    save_file(named, adapter / "adapter_model.safetensors")
    with pytest.raises(
        MergeError, match=r"changes model\.layers\.9\d\.\S+, which the model does not"
    ):
        merged(tmp_path, recipe_of("linear"), inputs, out="again")


def test_names_are_cut_at_the_plus_unless_a_folder_has_it(tmp_path):
    assert adapter_of("expert:github+./a") == ("expert:github", "./a")
    assert adapter_of("owner/name@main+owner/lora@v1") == ("owner/name@main", "owner/lora@v1")
    assert adapter_of("seed") == ("seed", None)
    (tmp_path / "c++").mkdir()
    assert adapter_of(str(tmp_path / "c++")) == (str(tmp_path / "c++"), None)
    (tmp_path / "c++" / "base").mkdir()
    base = str(tmp_path / "c++" / "base")
    assert adapter_of(f"{base}+/data/c++/lora") == (base, "/data/c++/lora")
    assert adapter_of("seed+/data/c++/lora") == ("seed", "/data/c++/lora")
    assert adapter_of("+./a") == ("", "./a")


def test_a_command_takes_a_recipe_with_an_adapter_beside_it(make_model, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from mdel_assets.cli.main import main

    monkeypatch.setenv("MDEL_HOME", str(tmp_path / "home"))
    base, other = make_model("llama"), make_model("llama", seed=1)
    adapter = save_adapter(base, tmp_path / "adapter")
    content = {
        "merge_method": "linear",
        "models": [{"model": f"{base}+adapter"}, {"model": str(other)}],
    }
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(content))
    words = ["merge", "--recipe", str(tmp_path / "recipe.yml"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    written = yaml.safe_load((tmp_path / "out" / "mergekit_config.yml").read_text())
    assert written["models"][0]["model"] == f"{base}+{adapter}"
    assert f"`{base.name}+adapter`" in (tmp_path / "out" / "README.md").read_text()
    found, expected = load_file(tmp_path / "out" / "model.safetensors"), by_peft(base, adapter)
    second = load_file(other / "model.safetensors")
    assert all((t - (expected[n] + second[n]) / 2).abs().max() < 1e-6 for n, t in found.items())
    before = json.loads((tmp_path / "out" / "record.json").read_text())["config"]["members"]
    # Another strength is another model.
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 50}))
    assert CliRunner().invoke(main, words).exit_code == 0
    after = json.loads((tmp_path / "out" / "record.json").read_text())["config"]["members"]
    assert after[0] != before[0]
    assert after[1] == before[1]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(content).replace("+adapter", "+none"))
    failed = CliRunner().invoke(main, words)
    assert "There is no adapter 'none': expected a folder, or a Hub id" in failed.output


def test_adapters_whose_folders_share_a_name_are_told_apart(make_model, tmp_path):
    base = make_model("llama")
    for number, owner in enumerate(("one/github", "one/pubmed", "two/pubmed")):
        save_adapter(base, tmp_path / owner / "adapter", seed=number)
    folders = [tmp_path / owner / "adapter" for owner in ("one/github", "one/pubmed")]
    content = {
        "merge_method": "linear",
        "models": [{"model": f"{base}+{folder}"} for folder in folders],
    }
    lineage = MdelHome(tmp_path / "home").lineage(load_experiment("sample"))

    def made(name):
        (tmp_path / "recipe.yml").write_text(yaml.safe_dump(content))
        merge = plan_merge(lineage, one_off_recipes([], tmp_path / "recipe.yml"))
        merged = make_one_off(lineage, merge, tmp_path / name)
        shown = yaml.safe_load(merge.written(shown_names(merge)))
        assert [entry["model"] for entry in shown["models"]] == list(merged.inputs)
        card = (tmp_path / name / "README.md").read_text()
        assert all(f"`{name}`" in card for name in merged.inputs)
        return merged.inputs

    before = f"{base.parent.name}/{base.name}+"
    assert list(made("of-two")) == [f"{before}github/adapter", f"{before}pubmed/adapter"]
    content["models"].append({"model": f"{base}+{tmp_path / 'two' / 'pubmed' / 'adapter'}"})
    inputs = made("of-three")
    assert len(inputs) == len(set(inputs.values())) == 3
    assert sum(name.startswith(f"{before}pubmed/adapter (") for name in inputs) == 2


@pytest.mark.parametrize(
    "tokens",
    [{}, {END: {"source": "second", "force": True}}],
)
def test_adapters_of_one_model_move_its_output_layer_each_by_itself(speakers, tmp_path, tokens):
    """The oracle is the same merge of models that PEFT has merged the adapters into."""
    base = speakers["B"]
    names, merged = {"base": base}, {"base": base}
    for number, name in enumerate(("first", "second")):
        adapter = save_adapter(
            base, tmp_path / name, seed=number, target_modules=["lm_head", "q_proj"]
        )
        names[name] = f"{base}+{adapter}"
        merged[name] = tmp_path / f"{name}-merged"
        whole = AutoModelForCausalLM.from_pretrained(base)
        PeftModel.from_pretrained(whole, adapter).merge_and_unload().save_pretrained(merged[name])
        AutoTokenizer.from_pretrained(base).save_pretrained(merged[name])
    content = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [
            {"model": "first", "parameters": {"weight": 0.5}},
            {"model": "second", "parameters": {"weight": 0.25}},
        ],
        "tokenizer": {"source": "union", "tokens": tokens},
        "dtype": "float32",
    }
    found, expected = (
        load_file(merge_ours(placed(content, named), tmp_path, out) / "model.safetensors")
        for named, out in ((names, "adapters"), (merged, "models"))
    )
    before = load_file(base / "model.safetensors")
    assert not torch.equal(found["lm_head.weight"], before["lm_head.weight"])
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-6)
