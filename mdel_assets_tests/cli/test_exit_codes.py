"""Exit codes of commands, as docs/operation.md has them. Ctrl-C is in `test_live_table.py`."""

import json

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets_tests.conftest import pico_experiment


@pytest.fixture
def mdel(corpus, home, tmp_path, monkeypatch):
    """Return a function that runs ``mdel`` on the pico experiment over an empty home."""
    path = tmp_path / "pico.yaml"
    content = pico_experiment(corpus).model_dump(mode="json", exclude_unset=True, by_alias=True)
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    return lambda *words: CliRunner().invoke(main, words)


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["check"], ["--version"]])
def test_what_was_done_is_0_also_where_something_is_stale(mdel, words):
    assert mdel(*words).exit_code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check", "nowhere.yaml"], "There is no file of that name"),
        (["matrix"], "is missing at"),
        (["generate", "seed", "--prompt", "a"], "is missing at"),
        (["doctor", "--offline"], "findings are not repaired"),
        (["backfill", "--asset", "expert_modle", "--domains", "all"], "Did you mean"),
    ],
)
def test_what_could_not_be_done_is_1_with_one_message(mdel, words, told):
    done = mdel(*words)
    assert done.exit_code == 1
    assert told in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stauts"], "No such command"),
        (["run", "--unitl", "seed_model"], "No such option"),
        (["run", "--until", "seed_modle"], "Did you mean 'seed_model'"),
        (["run", "--workers", "0"], "0 is not in the range"),
        (["run", "--max-disk", "much"], "'much' is no size"),
        (["run", "--max-disk", "0"], "'0' is less than a byte"),
        (["ui", "--port", "70000"], "70000 is not in the range"),
        (["serve", "--port", "70000"], "70000 is not in the range"),
        (["backfill", "--asset", "expert_model"], "Missing option"),
        (["plan", "--count", "2"], "give --device or --tflops"),
        (["forget", "--domain", "github", "--delete"], "add --yes"),
    ],
)
def test_wrong_usage_is_2(mdel, lineage, words, told):
    # For there to be something to delete.
    from mdel_assets.line.making import make_one

    make_one(lineage, "raw_pile_shard", "00")
    make_one(lineage, "shard_documents", "00")
    done = mdel(*words)
    assert done.exit_code == 2, done.output
    assert told in done.stderr


@pytest.mark.parametrize("words", [["check"], ["status"], ["matrix"], ["run"]])
def test_a_command_that_cannot_begin_prints_no_json(mdel, monkeypatch, words):
    monkeypatch.setenv("MDEL_EXPERIMENT", "nowhere.yaml")
    done = mdel(*words, "--json")
    assert (done.exit_code, done.stdout) == (1, "")


def test_json_is_whole_where_the_code_is_1(mdel):
    done = mdel("doctor", "--offline", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["num_left"] >= 1
