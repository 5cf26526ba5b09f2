"""The JSON Schema that editors read says of an experiment what the loader says."""

import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.experiment.loading import bundled_experiments
from mdel_assets.experiment.schema import SCHEMA_PATH, schema_text
from mdel_assets.experiment.settings_page import settings_page
from mdel_assets_tests.conftest import PICO

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(SCHEMA_PATH.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def mistakes(validator, content):
    return [error.message for error in validator.iter_errors(content)]


def test_what_ships_is_what_the_sections_say_now():
    remedy = "mdel schema > mdel_assets/experiment/experiment.schema.json"
    assert SCHEMA_PATH.read_text("utf-8") == schema_text(), remedy


def test_the_page_of_settings_is_what_the_sections_say_now():
    page = README.parent / "docs" / "settings.md"
    assert page.read_text("utf-8") == settings_page(), "mdel schema --page > docs/settings.md"


def test_the_page_of_settings_tells_defaults_and_limits():
    page = settings_page()
    assert "| `general_ratio` | `1.0` | number ≥ 0 |" in page
    assert (
        '| `splits` | `["validation_domain", "validation_pile"]` | list: `validation_domain`'
        in page
    )
    assert "| `name` | required | text |" in page
    assert "## `seed_model.pretrain`" in page
    assert "## `merges.NAME.mdel.search`" in page


@pytest.mark.parametrize("name", bundled_experiments())
def test_bundled_experiments_follow_it(validator, name):
    text = resources.files("mdel_assets.experiments").joinpath(f"{name}.yaml").read_text("utf-8")
    assert mistakes(validator, yaml.safe_load(text)) == []


def test_the_experiment_of_the_readme_follows_it(validator):
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert mistakes(validator, yaml.safe_load(block)) == []


@pytest.mark.parametrize(
    ("section", "key"),
    [(None, "sorce"), (None, "folder"), ("source", "text_feild"), ("training", "learning_rat")],
)
def test_a_misspelt_key_is_a_mistake(validator, section, key):
    content = json.loads(json.dumps(PICO | {"source": {"train": ["a.jsonl"]}}))
    assert mistakes(validator, content) == []
    (content if section is None else content[section])[key] = "x"
    (told,) = mistakes(validator, content)
    assert f"'{key}' was unexpected" in told


def test_a_key_is_explained_by_the_sentences_that_name_it(validator):
    source = validator.schema["$defs"]["Source"]["properties"]
    assert source["other_labels"]["description"] == (
        "`other_labels` says whether documents with a label of no domain are rejected, or left out "
        "and counted."
    )
    # What a training inherits is explained, too.
    training = validator.schema["$defs"]["ExpertTraining"]["properties"]
    assert "number of steps between checkpoints" in training["save_steps"]["description"]


def test_the_command_prints_the_schema_and_its_path():
    assert CliRunner().invoke(main, ["schema"]).output == SCHEMA_PATH.read_text("utf-8")
    assert CliRunner().invoke(main, ["schema", "--path"]).output == f"{SCHEMA_PATH}\n"
