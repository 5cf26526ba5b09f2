"""Completion in shells, by click's own machinery, and once in bash itself."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from click.shell_completion import BashComplete
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.running_dagster import command
from mdel_assets_tests.warm_python import MDEL


def completed(*words):
    """Return what the last of ``words`` is completed to."""
    complete = BashComplete(main, {}, "mdel", "_MDEL_COMPLETE")
    *arguments, incomplete = words
    return [item.value for item in complete.get_completions(arguments, incomplete)]


@pytest.fixture
def bare(corpus, home, tmp_path, monkeypatch):
    """The pico experiment over an empty home."""
    path = tmp_path / "pico.yaml"
    content = pico_experiment(corpus).model_dump(mode="json", exclude_unset=True, by_alias=True)
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    return home


@pytest.fixture
def made(bare, finished, monkeypatch):
    """The same, finished."""
    monkeypatch.setenv("MDEL_HOME", str(finished[1].root))


def test_commands_and_options(bare):
    assert completed("ma") == ["map", "matrix"]
    assert completed("status", "--j") == ["--json"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]


def test_assets_of_the_line(bare):
    assert completed("run", "--until", "s") == ["shard_documents", "seed_model", "sample_texts"]
    assert completed("plan", "--until", "domain_") == ["domain_dataset", "domain_router"]
    # An experiment that the command names has assets of its own.
    assert completed("plan", "--until", "moe") == []
    assert completed("plan", "-e", "sample-mixture", "--until", "moe") == ["moe_model"]


def test_assets_with_partitions(bare):
    names = completed("backfill", "--asset", "")
    assert {"raw_pile_shard", "expert_model", "token_scores", "hub_expert"} <= set(names)
    assert not {"seed_model", "perplexity_matrix", "domain_router"} & set(names)


def test_partitions_of_the_asset(bare):
    words = ["backfill", "--asset", "raw_pile_shard", "--domains"]
    assert completed(*words, "") == ["all", "stale", "00", "01", "val", "test"]
    words = ["backfill", "--asset", "merged_model", "--partitions"]
    assert completed(*words, "") == ["all", "stale", "mean-all", "pair", "random"]
    assert completed("backfill", "--domains", "") == []
    assert completed("backfill", "--asset", "expert_modle", "--domains", "") == []


def test_the_last_of_several_partitions(bare):
    words = ["backfill", "--asset", "expert_model", "--domains"]
    assert completed(*words, "github,") == ["github,arxiv", "github,freelaw", "github,enron"]
    assert completed(*words, "github,arxiv,f") == ["github,arxiv,freelaw"]


def test_partitions_are_those_that_the_corpus_has(made):
    words = ["backfill", "--asset", "expert_model", "--domains"]
    assert completed(*words, "") == ["all", "stale", "github", "arxiv", "freelaw"]


def test_models_and_ensembles_that_were_made(made):
    found = completed("generate", "")
    experts = ["expert-github", "expert-arxiv", "expert-freelaw"]
    assert found[:6] == ["seed", "dense-one", "dense", *experts]
    assert completed("generate", "ensemble-posterior-") == [
        name for name in found if name.startswith("ensemble-posterior-")
    ]
    assert "ensemble-posterior-top2" in found
    assert completed("generate", "merged-") == ["merged-mean-all", "merged-pair", "merged-random"]


def test_no_model_is_completed_before_one_was_made(bare):
    assert completed("generate", "") == []


def test_keys_of_what_is_published(bare):
    assert completed("publish", "merged", "") == ["mean-all", "pair", "random"]
    assert completed("publish", "expert", "github", "a") == ["arxiv"]
    assert completed("publish", "mixture", "") == []
    assert completed("forget", "--domain", "fr") == ["freelaw"]
    assert completed("merge", "-e", "git") == ["github"]


def test_experiments_else_files(bare):
    assert completed("check", "sample-c") == ["sample-clusters"]
    complete = BashComplete(main, {}, "mdel", "_MDEL_COMPLETE")
    (item,) = complete.get_completions(["plan", "-e"], "corpora/")
    assert (item.type, item.value) == ("file", "corpora/")


def test_settings_of_a_bundled_family(bare):
    assert completed("plan", "-e", "map/mid") == ["map/middle"]


def test_a_wrong_experiment_completes_nothing_and_says_nothing(bare, monkeypatch, capfd):
    monkeypatch.setenv("MDEL_EXPERIMENT", "nowhere.yaml")
    assert completed("run", "--until", "") == []
    assert completed("generate", "") == []
    assert capfd.readouterr() == ("", "")


def test_completing_loads_no_large_library(made):
    """As each press of Tab starts a Python."""
    code = (
        f"{MDEL[1].rpartition(';')[0]}; import sys\n"
        "from click.shell_completion import BashComplete\n"
        "complete = BashComplete(main, {}, 'mdel', '_MDEL_COMPLETE')\n"
        "words = ['backfill', '--asset', 'expert_model', '--domains']\n"
        "assert len(complete.get_completions(words, '')) == 5\n"
        "assert len(complete.get_completions(['generate'], 'ensemble-')) > 2\n"
        "large = ('dagster', 'torch', 'transformers', 'pyarrow.parquet', 'scipy', 'rich')\n"
        "print([m for m in large if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_bash_itself_completes(bare):
    """With the script that the command prints, and a key behind a comma."""
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    words = ["mdel", "backfill", "--asset", "expert_model", "--domains", "github,a"]
    typed = (
        f"{script}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD=5\n"
        f"_mdel_completion {command('mdel')}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p mdel'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", typed], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.splitlines() == [
        "github,arxiv",
        "complete -o nosort -F _mdel_completion mdel",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ("zsh", "compdef _mdel_completion mdel"),
        # All of a list of keys, not its first alone.
        ("fish", 'string split --max 1 "," $completion'),
    ],
)
def test_scripts_of_other_shells(shell, told):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert told in done.stdout
    assert f"_MDEL_COMPLETE={shell}_complete" in done.stdout
    if program := shutil.which(shell):
        subprocess.run([program, "-n", "-c", done.stdout], check=True)


def test_an_unknown_shell_is_wrong_usage():
    done = CliRunner().invoke(main, ["completion", "csh"])
    assert done.exit_code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in done.stderr
