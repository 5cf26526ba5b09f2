"""Planted tokens are looked for in everything that is written, printed or sent."""

import json
import re
import shutil

import pytest
import yaml

from mdel_assets_tests import warm_python
from mdel_assets_tests.publishing.clients import client_environment
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN
from mdel_assets_tests.publishing.hub_faults import Fault
from mdel_assets_tests.wandb_files import read_records

WANDB_KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"
MATERIALIZE = (
    *("-m", "dagster", "asset", "materialize"),
    *("-m", "mdel_assets.definitions", "--select"),
)


@pytest.fixture
def shell(finished, hub, tmp_path):
    """A function that runs Python with tokens in its environment; `said` holds what it printed."""
    experiment, home, _ = finished
    left_out = shutil.ignore_patterns("dagster", "cache", "publications", "wandb")
    shutil.copytree(home.root, tmp_path / "home", ignore=left_out)
    content = json.loads(experiment.model_dump_json(exclude_none=True))
    content["hub"] |= {"namespace": OWNER}
    content["tracking"] = {"wandb_project": "pico"}
    (tmp_path / "pico.yaml").write_text(yaml.safe_dump(content))
    environment = client_environment(hub, tmp_path / "hf", token=TOKEN) | {
        "MDEL_HOME": str(tmp_path / "home"),
        "MDEL_EXPERIMENT": str(tmp_path / "pico.yaml"),
        "DAGSTER_HOME": str(tmp_path / "home" / "pico" / "dagster"),
        "HUGGING_FACE_HUB_TOKEN": TOKEN,
        "WANDB_API_KEY": WANDB_KEY,
        "WANDB_MODE": "offline",
        "HOME": str(tmp_path),
    }

    def run(*words, code=0):
        done = warm_python.run(words, env=environment, cwd=tmp_path, with_hub=False)
        run.said.append(done.stdout)
        assert done.returncode == code, run.said[-1][-3000:]

    run.said = []
    return run


@pytest.mark.slow
def test_no_token_is_in_logs_events_records_cards_or_tracking(shell, hub, tmp_path):
    shell(*warm_python.MDEL, "init")
    hub.faults.plan("POST", "/commit/main", Fault("error", status=403))
    shell(*MATERIALIZE, "hub_expert", "--partition", "arxiv", code=1)
    assert "refused (403)" in shell.said[-1]
    hub.faults.plan("POST", "/commit/main", Fault("error", status=500))
    shell(*MATERIALIZE, "hub_expert", "--partition", "arxiv")
    shell(*MATERIALIZE, "hub_dataset", "--partition", "arxiv")
    shell(*MATERIALIZE, "perplexity_matrix")
    shell(*warm_python.MDEL, "publish", "merged", "--dry-run")
    assert hub.commits("models", f"{OWNER}/expert-arxiv")
    records = read_records(tmp_path / "home")
    places = {
        "what was printed": "".join(shell.said).encode(),
        "what was asked for": json.dumps(hub.requests).encode(),
        "what was tracked": b"".join(record.SerializeToString() for record in records),
        **{
            str(path.relative_to(tmp_path)): path.read_bytes()
            for path in tmp_path.rglob("*")
            # The server's own list of accounts is where the token was planted.
            if path.is_file() and path.name != "accounts.json"
        },
    }
    assert any(re.search(r"dagster/.*\.db", name) for name in places)
    assert any(name.endswith(".wandb") for name in places)
    secrets = (TOKEN.encode(), WANDB_KEY.encode())
    assert [name for name, text in places.items() if any(s in text for s in secrets)] == []
