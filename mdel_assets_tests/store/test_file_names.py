"""Homes and corpora with other than ASCII letters, in processes of several locales."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.in_use

_CODE = """
from mdel_assets.errors import ExperimentError
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.experiment.shard_locations import write_out
for ask in (MdelHome.from_environment, experiment_name, lambda: write_out("\\u00c4*.jsonl")):
    try:
        print(ascii(str(ask())))
    except ExperimentError as error:
        print(error)
"""


def answers(folder, **locale):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    environment |= {"MDEL_HOME": "hömé", "MDEL_EXPERIMENT": "é.yaml", **locale}
    ran = subprocess.run(
        [sys.executable, "-c", _CODE],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return ran.stdout.splitlines()


def test_a_name_of_other_letters_works_under_the_c_locale(tmp_path):
    (tmp_path / "Ä1.jsonl").write_text("")
    home, experiment, shards = answers(tmp_path, LANG="C")
    assert r"/h\xf6m\xe9'" in home
    assert (experiment, shards) == (r"'\xe9.yaml'", ascii(str(["Ä1.jsonl"])))


def test_a_name_of_other_letters_is_refused_where_the_process_cannot_write_it(tmp_path):
    (tmp_path / "Ä1.jsonl").write_text("")
    told = answers(tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert [line.split()[0] for line in told] == ["MDEL_HOME", "MDEL_EXPERIMENT", "source.train:"]
    assert all("not in UTF-8. Set PYTHONUTF8=1" in line for line in told)
