"""Worker processes of ``mdel run``: several shards at a time, and never left alone."""

import os
import signal
import socket

import pytest
import yaml

from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import pico_experiment


@pytest.mark.slow
def test_two_shards_are_fetched_at_once_and_workers_die_with_their_parent(tmp_path):
    """The server takes connections and never answers; a dead client's connection ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        place = f"http://127.0.0.1:{server.getsockname()[1]}"
        source = {
            "train": [f"{place}/00.jsonl.zst", f"{place}/01.jsonl.zst"],
            "validation": None,
            "test": None,
        }
        experiment = pico_experiment(tmp_path, source=source)
        path = tmp_path / "pico.yaml"
        path.write_text(yaml.safe_dump(experiment.model_dump(mode="json", exclude_none=True)))
        environment = os.environ | {
            "MDEL_EXPERIMENT": str(path),
            "MDEL_HOME": str(tmp_path / "home"),
        }
        words = [*warm_python.MDEL, "run", "--workers", "2"]
        with warm_python.start(words, env=environment) as process:
            connections = [server.accept()[0] for _ in range(2)]
            requests = {connection.recv(65536).split()[1] for connection in connections}
            assert requests == {b"/00.jsonl.zst", b"/01.jsonl.zst"}
            process.send_signal(signal.SIGKILL)
        for connection in connections:
            with connection:
                connection.settimeout(30)
                assert connection.recv(1) == b""
