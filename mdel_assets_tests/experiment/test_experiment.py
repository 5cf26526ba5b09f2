"""What an experiment's YAML may say, and how mistakes in it are refused."""

import shutil

import pytest
import yaml
from pydantic import ValidationError

from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.loading import bundled_experiments, load_experiment, parse_experiment
from mdel_assets.experiment.shard_locations import repeated_locations, shard_key
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.merging.outside_models import outside_digest
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets_tests.conftest import PICO, pico_experiment


def parse(**changes):
    content = PICO | {"source": {"train": ["a.jsonl.zst"]}} | changes
    return parse_experiment(yaml.safe_dump(content), origin="test.yaml")


def test_every_bundled_experiment_is_valid():
    assert bundled_experiments() == [
        "common-pile-pythia-1b",
        "pile-pythia-1b",
        "pile-uncopyrighted-pythia-1b",
        "sample",
        "sample-clusters",
        "sample-mixture",
    ]
    for name in bundled_experiments():
        assert load_experiment(name).name == name


def test_the_piles_domain_keys_are_those_of_the_contract():
    contract = (
        "pile_cc pubmed_central books3 openwebtext2 arxiv github freelaw stackexchange uspto "
        "pubmed_abstracts gutenberg opensubtitles wikipedia dm_mathematics ubuntu_irc bookcorpus2 "
        "europarl hackernews youtubesubtitles philpapers nih_exporter enron"
    )
    assert load_experiment("pile-pythia-1b").domain_keys == contract.split()


def test_ancestors_settings_give_a_thousand_steps():
    training = load_experiment("pile-pythia-1b").training
    assert training.num_steps == 1000
    assert training.trained_layers == (9, 10, 11, 12, 13)


def test_the_hub_takes_templates_and_addresses_and_nothing_else():
    hub = parse(hub={"expert_name": "pythia-{domain}.v2", "endpoint": "file:shelf"}).hub
    assert hub.expert_name.format(domain="uspto") == "pythia-uspto.v2"
    for wrong, told in (
        ({"expert_name": "experts"}, r"hub.expert_name: a repository's name .* \{domain\}"),
        ({"merged_name": "{domain}"}, r"and \{recipe\}"),
        ({"dataset_name": "a/{domain}"}, "hub.dataset_name"),
        ({"endpoint": "huggingface.co"}, "an endpoint must begin with https://"),
        ({"allow_restrict": True}, "Did you mean 'allow_restricted'"),
    ):
        with pytest.raises(ExperimentError, match=told):
            parse(hub=wrong)


def test_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ExperimentError, match=r"'learning_rat'.*Did you mean 'learning_rate'"):
        parse(training=PICO["training"] | {"learning_rat": 1.0})
    with pytest.raises(ExperimentError, match=r"'mergse'.*Did you mean 'merges'"):
        parse(mergse={})
    with pytest.raises(ExperimentError, match=r"'wieght'.*Did you mean 'weight'"):
        model = {"model": "seed", "parameters": {"wieght": 1}}
        parse(merges={"m": {"merge_method": "linear", "models": [model]}})


def test_unknown_domain_in_a_recipe_is_refused_with_the_nearest_known_one():
    recipe = {"merge_method": "linear", "models": [{"model": "expert:githb"}]}
    with pytest.raises(ExperimentError, match=r"'githb'\. Did you mean 'github'"):
        parse(merges={"m": recipe})


def test_unknown_experiment_is_refused_with_the_known_ones():
    with pytest.raises(ExperimentError, match="Did you mean 'sample'"):
        load_experiment("sampel")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed_model": {}}, "exactly one of 'path'"),
        ({"merges": {"a/b": {"merge_method": "linear", "models": [{"model": "seed"}]}}}, "a/b"),
        ({"training": PICO["training"] | {"num_tokens": 0}}, "num_tokens"),
        ({"training": PICO["training"] | {"micro_batch_size": 3}}, "multiple of micro_batch_size"),
        ({"domains": [{"key": "a", "name": "X"}, {"key": "b", "name": "X"}]}, "'X' occurs twice"),
        ({"domains": [{"key": "A b", "name": "X"}]}, "domain key"),
    ],
)
def test_values_that_cannot_be_are_refused_with_the_reason(changes, message):
    with pytest.raises(ExperimentError, match=message):
        parse(**changes)


def test_an_experiment_cannot_be_changed(corpus):
    with pytest.raises(ValidationError, match="frozen"):
        pico_experiment(corpus).name = "other"


def test_shard_keys_come_from_file_names():
    assert shard_key("hf://datasets/a/b/train/01.jsonl.zst") == "01"
    assert shard_key("/data/part 7.v2.json.gz") == "part_7_v2"


def test_globs_give_one_shard_per_file_in_sorted_order(corpus):
    source = {"train": [str(corpus / "0*.zst")]}
    shards = pico_experiment(corpus, source=source).shards()
    assert [(s.key, s.role) for s in shards] == [
        ("00", "train"),
        ("01", "train"),
        ("val", "validation"),
        ("test", "test"),
    ]


def test_a_glob_without_a_match_and_one_shard_given_twice_are_refused(corpus):
    with pytest.raises(ExperimentError, match="matches no file"):
        pico_experiment(corpus, source={"train": [str(corpus / "x*.zst")]}).shards()
    with pytest.raises(ExperimentError, match="'a_00' occurs twice"):
        pico_experiment(corpus, source={"train": ["a/00.jsonl.zst", "a/00.jsonl.zst"]}).shards()


def keys_of(*train, **source):
    held_out = {"validation": None, "test": None}
    shards = parse(source={"train": list(train)} | held_out | source).shards()
    return [shard.key for shard in shards if shard.role == "train"]


@pytest.mark.in_use
def test_shards_of_one_name_are_told_apart_by_their_folders():
    assert keys_of("en/train-0.jsonl", "fr/train-0.jsonl", "de/one.csv.xz") == [
        "en_train-0",
        "fr_train-0",
        "one",
    ]
    assert keys_of("a/x/0.jsonl", "b/x/0.jsonl") == ["a_x_0", "b_x_0"]
    assert keys_of("a/val.jsonl") == ["val"]
    assert keys_of("a/val.jsonl", validation="b.jsonl") == ["a_val"]


@pytest.mark.in_use
def test_shards_whose_names_have_no_ascii_letter_are_told_apart_by_a_digest():
    keys = keys_of("法律.jsonl", "税.jsonl")
    assert len(set(keys)) == 2
    assert all(key.isascii() for key in keys)
    assert keys == keys_of("elsewhere/法律.jsonl", "elsewhere/税.jsonl")
    assert keys_of("法律.jsonl") == ["shard"]


@pytest.mark.in_use
@pytest.mark.parametrize(
    "pattern", ["https://x/{00000000..99999999}.jsonl", "x/{0..9999}/{a,b,c}/{0..99}.jsonl"]
)
def test_a_range_of_very_many_shards_is_refused_before_it_is_written_out(pattern):
    with pytest.raises(ExperimentError, match=r"stands for \d+ shards, but .* at most 100000"):
        keys_of(pattern)


@pytest.mark.in_use
def test_a_place_that_is_given_twice_is_found_through_links_and_spellings(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    one, link = str(tmp_path / "a.jsonl"), str(tmp_path / "link.jsonl")
    (told,) = repeated_locations({"train": [one], "validation": [link], "test": ["b.jsonl"]})
    assert told.startswith(
        f"source.train and source.validation are both '{one}', which is the same"
    )
    assert "every document of source.train would be removed" in told
    (told,) = repeated_locations({"train": ["hf://a", "hf://a", "hf://b"]})
    assert told == "source.train names 'hf://a' more than once: remove the repetition"
    assert repeated_locations({"train": ["x/../gone.jsonl"], "test": ["gone.jsonl"]})
    assert not repeated_locations({"train": [one], "validation": ["hf://a"]})


def test_ranges_and_lists_in_braces_are_written_out(tmp_path):
    source = {"train": ["hf://datasets/a/b/train/{08..11}.jsonl.zst", "https://x/{a,b}.jsonl"]}
    shards = pico_experiment(tmp_path, source=source).shards()
    assert [s.key for s in shards if s.role == "train"] == ["08", "09", "10", "11", "a", "b"]
    assert shards[2].location == "hf://datasets/a/b/train/10.jsonl.zst"


@pytest.mark.in_use
def test_relative_paths_begin_in_the_yamls_folder_and_change_no_fingerprint(
    tmp_path, monkeypatch, make_model
):
    """The same names stand beside the shell's folder, and mean nothing there."""
    content = PICO | {
        "source": {"train": ["data/*.jsonl"], "validation": "data/held/out.jsonl"},
        "seed_model": {"path": "models/seed"},
        "merges": {
            "m": {"merge_method": "linear", "models": [{"model": "models/seed"}, {"model": "seed"}]}
        },
        "hub": {"endpoint": "file:shelf", "namespace": "firm"},
    }
    model = make_model()
    identities = []
    for name in ("here", "there"):
        folder = tmp_path / name
        (folder / "data" / "held").mkdir(parents=True)
        (folder / "data" / "a.jsonl").write_text("{}")
        (folder / "data" / "held" / "out.jsonl").write_text("{}")
        shutil.copytree(model, folder / "models" / "seed")
        (folder / "firm.yaml").write_text(yaml.safe_dump(content))
    shell = tmp_path / "shell"
    shutil.copytree(tmp_path / "here" / "data", shell / "data")
    (shell / "data" / "b.jsonl").write_text("{}")
    (shell / "models" / "seed").mkdir(parents=True)
    for name in ("here", "there"):
        monkeypatch.chdir(tmp_path / name)
        experiment = load_experiment("firm.yaml")
        monkeypatch.chdir(shell)
        folder = tmp_path / name
        assert [shard.location for shard in experiment.shards()] == [
            str(folder / "data" / "a.jsonl"),
            str(folder / "data" / "held" / "out.jsonl"),
        ]
        assert make_publisher(experiment).backend.location == f"file:{folder / 'shelf'}"
        lineage = MdelHome(tmp_path / f"home of {name}").lineage(experiment)
        adopted = make_one(lineage, "seed_model")
        digest = outside_digest(experiment.place_of_model("models/seed"), before=None)
        assert digest.startswith("folder:")
        identities.append((adopted.fingerprint, digest))
    assert identities[0] == identities[1]
    assert adopted.config == {"path": "models/seed", "revision": "main", "pretrain": None}


def test_a_plus_in_a_folder_beside_the_yaml_begins_no_adapter(tmp_path, monkeypatch):
    (tmp_path / "c++" / "model").mkdir(parents=True)
    (tmp_path / "shell").mkdir()
    recipe = {"merge_method": "linear", "models": [{"model": "./c++/model"}, {"model": "seed"}]}
    source = {"train": ["a.jsonl"], "validation": "b.jsonl"}
    content = PICO | {"source": source, "merges": {"mean": recipe}}
    (tmp_path / "plus.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path / "shell")
    experiment = load_experiment(str(tmp_path / "plus.yaml"))
    assert experiment.adapter_of("./c++/model") == ("./c++/model", None)
    assert experiment.adapter_of("./c++/model+./c++/lora") == ("./c++/model", "./c++/lora")
    assert experiment.adapter_of("seed+./c++/lora") == ("seed", "./c++/lora")
