"""What keeps the server from starting, told before anything is loaded."""

import socket
import sys

import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main


@pytest.fixture
def serve(tmp_path):
    """Return a function that runs the command, which is refused, and returns what it says."""

    def run(*words):
        environment = {"MDEL_HOME": str(tmp_path), "MDEL_API_KEY": "", "MDEL_EXPERIMENT": ""}
        refused = CliRunner(env=environment).invoke(main, ["serve", *words])
        assert refused.exit_code != 0
        return refused.output

    return run


def test_without_the_extra_the_command_that_installs_it_is_told(serve, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    told = serve()
    assert "prometheus_client" in told
    assert "fastapi" not in told
    assert "pip install --constraint constraints.txt --editable '.[serve]'" in told


def test_an_address_that_others_reach_needs_a_key(serve):
    assert "MDEL_API_KEY" in serve("--host", "0.0.0.0")


def test_a_size_is_a_number_with_a_unit(serve):
    for size in ("lots", "-1G", "1 parsec"):
        assert f"'{size}' is no size" in serve(f"--max-memory={size}")
    assert "'0' is less than a byte" in serve("--max-memory=0")


def test_a_port_that_is_taken_is_named_with_the_next(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = serve("--port", str(port))
    assert f"127.0.0.1:{port} cannot be listened on" in told
    assert f"mdel serve --port {port + 1}" in told
