"""Experts kept as what changed: a link to the seed's file, and a file of the trained tensors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mdel_assets.errors import DamagedArtifactError, TrainingError
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.training.expert import train_expert
from mdel_assets.training.trained_model import save_trained, stored_names
from mdel_assets_tests.conftest import PICO, TRAINING, flip_bit, pico_experiment

TRAINED = "model-00002-of-00002.safetensors"


def train(seed, dataset, folder, store):
    folder.mkdir()
    return train_expert(
        TRAINING.model_copy(update={"store": store}),
        seed_folder=seed,
        dataset_folder=dataset,
        folder=folder,
        work_folder=folder.with_suffix(".work"),
    )


# Apertus has tensors of no dimension.
@pytest.mark.parametrize(
    "family", ["gpt_neox", "llama", "gpt2", pytest.param("apertus", marks=pytest.mark.in_use)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_delta_loads_to_the_bits_of_the_whole_model(make_model, dataset, tmp_path, family, dtype):
    seed = make_model(family, dtype=dtype)
    full = train(seed, dataset, tmp_path / "full", "full")
    delta = train(seed, dataset, tmp_path / "delta", "delta")
    assert delta.changed_though_frozen == []
    assert delta.losses_after == full.losses_after
    whole, parts = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("full", "delta")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    ids = [
        AutoTokenizer.from_pretrained(tmp_path / n)("let epsilon").input_ids
        for n in ("full", "delta")
    ]
    assert ids[0] == ids[1]
    with TensorFolder(tmp_path / "full") as one, TensorFolder(tmp_path / "delta") as other:
        assert one.shapes == other.shapes
        assert one.dtypes == other.dtypes
        assert all(torch.equal(one.read(name), other.read(name)) for name in one.shapes)


def test_a_delta_takes_no_more_room_than_what_was_trained(make_model, dataset, tmp_path):
    seed = make_model()
    train(seed, dataset, tmp_path / "delta", "delta")
    linked = tmp_path / "delta" / "model-00001-of-00002.safetensors"
    assert linked.samefile(seed / "model.safetensors")
    trained = load_file(tmp_path / "delta" / TRAINED)
    assert trained
    assert all(".layers.1." in name or ".layers.2." in name for name in trained)


def test_a_delta_outlives_a_seed_that_is_made_anew(make_model, dataset, tmp_path):
    seed = tmp_path / "seed"
    shutil.copytree(make_model(), seed)
    train(seed, dataset, tmp_path / "delta", "delta")
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "delta").state_dict()
    other = {n: torch.zeros_like(t) for n, t in load_file(seed / "model.safetensors").items()}
    (seed / "model.safetensors").unlink()
    save_file(other, seed / "model.safetensors", metadata={"format": "pt"})
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "delta").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_delta_of_a_seed_in_several_files(make_model, tmp_path):
    seed = AutoModelForCausalLM.from_pretrained(make_model())
    seed.save_pretrained(tmp_path / "seed", max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(make_model() / name, tmp_path / "seed" / name)
    assert len(list((tmp_path / "seed").glob("*.safetensors"))) > 2
    changed = {"lm_head.weight": torch.full_like(seed.lm_head.weight, 0.5)}
    (tmp_path / "delta").mkdir()
    save_trained(changed, tmp_path / "delta", seed_folder=tmp_path / "seed", store="delta")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "delta").state_dict()
    for name, tensor in seed.state_dict().items():
        expected = changed.get(name, tensor)
        assert torch.equal(found[name], expected), name


def test_an_output_layer_stored_under_its_other_name_is_found(make_model, tmp_path):
    shutil.copytree(make_model(), tmp_path / "seed")
    path = tmp_path / "seed" / "model.safetensors"
    tensors = load_file(path)
    stored = {n.replace("lm_head.", "embed_out."): t for n, t in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})
    names = stored_names(["lm_head.weight"], tmp_path / "seed")
    assert names == {"lm_head.weight": "embed_out.weight"}


def test_a_parameter_that_files_hold_in_another_form_is_refused(make_model):
    with pytest.raises(TrainingError, match=r"store tensors in another form.*store: full"):
        stored_names(["layers.0.mlp.experts.gate_up_proj"], make_model())


def test_an_index_that_names_a_tensor_its_file_lacks_is_refused(make_model, dataset, tmp_path):
    from mdel_assets.errors import MergeError

    train(make_model(), dataset, tmp_path / "delta", "delta")
    index = tmp_path / "delta" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["gpt_neox.embed_in.weight"] = TRAINED
    index.write_text(json.dumps(content))
    with pytest.raises(MergeError, match=r"lacks 'gpt_neox\.embed_in\.weight'"):
        TensorFolder(tmp_path / "delta")


def test_a_merge_of_deltas_has_the_bytes_of_a_merge_of_whole_models(make_model, tmp_path):
    from mdel_assets.merging.sources import MergeInput
    from mdel_assets.merging.streaming import merge_models
    from mdel_assets_tests.merging.folders import recipe_of

    seed = make_model()
    layer = "gpt_neox.layers.2."
    own = AutoModelForCausalLM.from_pretrained(seed).state_dict()
    for number in (1, 2):
        moved = {
            name: tensor + torch.randn(tensor.shape, generator=torch.manual_seed(number))
            for name, tensor in own.items()
            if name.startswith(layer)
        }
        for store in ("full", "delta"):
            (tmp_path / f"{store}-{number}").mkdir()
            save_trained(moved, tmp_path / f"{store}-{number}", seed_folder=seed, store=store)
    for store in ("full", "delta"):
        (tmp_path / store).mkdir()
        merge_models(
            recipe_of("linear"),
            [
                MergeInput(f"expert-{n}", tmp_path / f"{store}-{n}", trained_prefixes=(layer,))
                for n in (1, 2)
            ],
            tmp_path / store,
            model_folder=seed,
        )
    full, delta = (tmp_path / store / "model.safetensors" for store in ("full", "delta"))
    assert full.read_bytes() == delta.read_bytes()
    assert not load_file(full)[f"{layer}mlp.dense_h_to_4h.weight"].equal(
        own[f"{layer}mlp.dense_h_to_4h.weight"]
    )


def test_a_published_delta_loads_from_where_it_was_published(make_model, dataset, tmp_path):
    from mdel_assets.hub.retries import RetryPolicy
    from mdel_assets.publishing.backend import Repository
    from mdel_assets.publishing.folder_backend import FolderBackend
    from mdel_assets.publishing.publication import publish

    train(make_model(), dataset, tmp_path / "delta", "delta")
    files = {path.name: path for path in (tmp_path / "delta").iterdir()}
    publish(
        FolderBackend(f"file:{tmp_path / 'hub'}"),
        Repository("model", "owner/expert-arxiv"),
        files,
        message="an expert",
        private=True,
        retries=RetryPolicy(),
    )
    there = tmp_path / "hub" / "models" / "owner" / "expert-arxiv" / "main"
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "delta", there)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.in_use
def test_a_delta_whose_seed_was_damaged_is_linked_anew_and_not_trained(branched, corpus, tmp_path):
    home = MdelHome(tmp_path / "home")
    shutil.copytree(branched[1].root, home.root)
    experiment = pico_experiment(corpus, training=PICO["training"] | {"store": "delta"})
    lineage = home.lineage(experiment)
    made = make_one(lineage, "expert_model", "github")
    expert, weights = lineage.artifact("expert_model", "github"), lineage.folder("seed_model")
    weights /= "model.safetensors"
    linked, trained = sorted(expert.folder.glob("model-*.safetensors"))
    assert linked.samefile(weights)
    inode = trained.stat().st_ino
    flip_bit(weights)
    # The file is one: both are damaged, and nothing is trained from it.
    with pytest.raises(DamagedArtifactError, match=f"expert_model 'github' is damaged: {linked}"):
        expert.require()
    with pytest.raises(DamagedArtifactError, match=f"seed_model is damaged: {weights}"):
        make_one(lineage, "expert_model", "github")
    make_one(lineage, "seed_model")
    assert make_one(lineage, "expert_model", "github") == made
    assert linked.samefile(weights)
    assert trained.stat().st_ino == inode
    assert expert.damage(made, read_all=True) is None
