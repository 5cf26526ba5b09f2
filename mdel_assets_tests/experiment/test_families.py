"""Families of experiments: a base and what settings change of it."""

import pytest
import yaml

from mdel_assets.errors import ExperimentError, UnknownKeyError
from mdel_assets.experiment.families import bundled_families, load_family
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.maintenance.experiment_checks import look_around

BASE = {
    "source": {"train": ["a.jsonl"]},
    "domains": [{"key": "code", "name": "Code"}, {"key": "law", "name": "Law"}],
    "seed_model": {
        "pretrain": {
            "model": {
                "model_type": "gpt_neox",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "attention_dropout": 0.0,
            },
            "vocab_size": 320,
            "max_steps": 8,
        }
    },
    "training": {"trained_layers": "all", "max_steps": 4, "learning_rate": 0.5},
}


def write_family(folder, settings, **changes):
    path = folder / "own.yaml"
    content = {"name": "own", "base": BASE, "settings": settings} | changes
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_every_setting_of_a_bundled_family_passes_the_check_of_an_experiment(home):
    assert bundled_families() == ["map"]
    family = load_family("map")
    assert len(family.settings) >= 24
    found = {}
    for setting, name in family.experiment_names().items():
        experiment = load_experiment(name)
        assert experiment.name == f"map-{setting}"
        found[setting] = look_around(home.lineage(experiment)).mistakes
    assert found == {setting: [] for setting in family.settings}


def test_what_is_branched_reads_as_much_in_all_settings_and_dense_as_much_as_the_experts():
    totals = {}
    for setting, name in load_family("map").experiment_names().items():
        experiment = load_experiment(name)
        own, pretrain = experiment.training, experiment.seed_model.pretrain
        of_experts = len(experiment.domain_keys) * own.num_tokens_read
        totals[setting] = pretrain.num_tokens_read + of_experts
        # What `dense` reads: whole steps of all experts' tokens.
        step = own.batch_size * own.block_size
        assert of_experts % step == 0
        assert experiment.baselines.dense
    changed = {"tokens-half": 491_520, "tokens-double": 1_966_080}
    assert totals == dict.fromkeys(totals, 983_040) | changed


def test_a_setting_changes_single_keys_replaces_lists_and_takes_keys_away(tmp_path):
    settings = {
        "as-it-is": None,
        "other": {
            "domains": [{"key": "law", "name": "Law"}],
            "seed_model": {"pretrain": {"model": {"hidden_size": 64, "attention_dropout": None}}},
            "training": {"max_steps": 6},
        },
    }
    place = write_family(tmp_path, settings)
    same, other = (load_experiment(f"{place}/{name}") for name in settings)
    assert (same.name, other.name) == ("own-as-it-is", "own-other")
    assert same.domain_keys == ["code", "law"]
    assert other.domain_keys == ["law"]
    assert same.seed_model.pretrain.model == BASE["seed_model"]["pretrain"]["model"]
    assert other.seed_model.pretrain.model == {
        "model_type": "gpt_neox",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    assert (other.training.max_steps, other.training.learning_rate) == (6, 0.5)
    assert other.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "changes", "told"),
    [
        ({"a": {}}, {"setings": {}}, "Unknown key 'setings'. Did you mean 'settings'?"),
        ({}, {}, "settings: expected a mapping"),
        ({"a b": {}}, {}, "settings: 'a b' is not allowed as a name"),
        ({"a": 3}, {}, "settings.a: expected what differs from the base"),
        ({"a": {"name": "b"}}, {}, "settings.a: remove 'name'"),
        ({"a": {}}, {"base": {"name": "b"}}, "base: remove 'name'"),
        ({"a": {}}, {"name": "../x"}, "name: '../x' is not allowed as a name"),
    ],
)
def test_mistakes_in_a_family_are_told(tmp_path, settings, changes, told):
    place = write_family(tmp_path, settings, **changes)
    with pytest.raises(ExperimentError) as caught:
        load_experiment(f"{place}/a")
    assert told in str(caught.value)


def test_a_setting_with_a_mistake_and_one_that_is_not_there_are_refused(tmp_path):
    place = write_family(tmp_path, {"wrong": {"training": {"max_stepz": 3}}})
    with pytest.raises(ExperimentError, match="Did you mean 'max_steps'"):
        load_experiment(f"{place}/wrong")
    with pytest.raises(UnknownKeyError, match="Did you mean 'wrong'"):
        load_experiment(f"{place}/wrongs")
