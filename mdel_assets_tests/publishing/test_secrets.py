"""Planted tokens are looked for in everything that is written, printed or sent."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from mdel_assets_tests.publishing.clients import client_environment
from mdel_assets_tests.publishing.conftest import OWNER, TOKEN
from mdel_assets_tests.publishing.hub_faults import Fault
from mdel_assets_tests.wandb_files import read_records

WANDB_KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"


@pytest.mark.slow
def test_no_token_is_in_logs_events_records_cards_or_tracking(finished, hub, tmp_path):
    experiment, home, _ = finished
    copy = tmp_path / "home"
    left_out = shutil.ignore_patterns("dagster", "cache", "publications", "wandb")
    shutil.copytree(home.root, copy, ignore=left_out)
    content = json.loads(experiment.model_dump_json(exclude_none=True))
    content["hub"] |= {"namespace": OWNER}
    content["tracking"] = {"wandb_project": "pico"}
    (tmp_path / "pico.yaml").write_text(yaml.safe_dump(content))
    environment = client_environment(hub, tmp_path / "hf", token=TOKEN) | {
        "MDEL_HOME": str(copy),
        "MDEL_EXPERIMENT": str(tmp_path / "pico.yaml"),
        "DAGSTER_HOME": str(copy / "dagster"),
        "WANDB_API_KEY": WANDB_KEY,
        "WANDB_MODE": "offline",
        "HUGGING_FACE_HUB_TOKEN": TOKEN,
        "HF_DEBUG": "0",
        "HOME": str(tmp_path),
    }
    said = []

    def run(*command, code=0):
        done = subprocess.run(
            [sys.executable, *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        said.append(done.stdout + done.stderr)
        assert done.returncode == code, said[-1][-3000:]

    mdel = ("-c", "from mdel_assets.cli import main; main()")
    materialize = (
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "mdel_assets.definitions",
        "--select",
    )
    run(*mdel, "init")
    hub.faults.plan("POST", "/commit/main", Fault("error", status=403))
    run(*materialize, "hub_expert", "--partition", "arxiv", code=1)
    assert "refused (403)" in said[-1]
    hub.faults.plan("POST", "/commit/main", Fault("error", status=500))
    run(*materialize, "hub_expert", "--partition", "arxiv")
    run(*materialize, "hub_dataset", "--partition", "arxiv")
    run(*materialize, "perplexity_matrix")
    run(*mdel, "publish", "merged", "--dry-run")
    assert hub.commits("models", f"{OWNER}/expert-arxiv")
    assert read_records(copy)
    tracked = b"".join(record.SerializeToString() for record in read_records(copy))
    places = {
        "what was printed": "".join(said).encode(),
        "what was asked for": json.dumps(hub.requests).encode(),
        "what was tracked": tracked,
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
