"""The documentation says only what is true: commands, files and names in it exist."""

import re
import subprocess
from pathlib import Path

import pytest

from mdel_assets.cli.main import main
from mdel_assets.experiment.loading import bundled_experiments, load_experiment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines(page):
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z_]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_lines(page):
        for target in re.findall(r"\bmake ([a-z_]+)", line):
            assert target in targets, line
        for command in re.findall(r"(?:^|/)mdel ([a-z]+)", line):
            assert command in main.commands, line
        for name in re.findall(r"MDEL_EXPERIMENT=([\w-]+)(?:\s|$)", line):
            assert name in bundled_experiments(), line


@pytest.mark.in_use
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_dagster_are_recorded_where_the_web_ui_shows_them(page):
    for line in code_lines(page):
        if "docker compose" not in line:
            assert not re.search(r"(?<!mdel )\b(dg|dagster) ", line), line


def test_readme_names_every_file_to_read_first():
    readme = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"`(mdel_assets/[\w/.]+)`", readme)
    assert len(named) >= 5
    for name in named:
        assert (ROOT / name).exists(), name


def test_readme_shows_a_whole_experiment_in_fifteen_lines(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(block.splitlines()) <= 15
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl.gz").touch()
    (tmp_path / "my-corpus.yaml").write_text(block)
    experiment = load_experiment(str(tmp_path / "my-corpus.yaml"))
    assert [shard.key for shard in experiment.shards()] == ["a"]
    assert experiment.model_keys[-1] == "merged-mean-all"


def test_ci_runs_exactly_what_the_readme_says():
    ran = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")
    ]
    assert ran == ["make check", "make test_services", "make test"]
    assert set(ran) <= set(code_lines(ROOT / "README.md"))


def test_no_secret_and_no_artifact_is_tracked():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in tracked if name.startswith(("mdel_home", ".venv"))]
    assert not [name for name in tracked if name.endswith((".parquet", ".safetensors", ".zst"))]
