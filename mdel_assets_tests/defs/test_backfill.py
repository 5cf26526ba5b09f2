"""Which partitions a backfill means, and what it reports of those that a daemon made."""

import http.server
import json
import shutil
import socket
import threading

import click
import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli import backfill as cli_backfill
from mdel_assets.cli.main import main
from mdel_assets.defs.backfill import select_partitions
from mdel_assets.defs.graph import build_definitions
from mdel_assets.errors import UnknownKeyError, WebserverError
from mdel_assets.line.making import make_one
from mdel_assets.web.webserver import LaunchedRun, Webserver


@pytest.fixture
def select(lineage, home):
    definitions = build_definitions(lineage.experiment, home)

    def of(asset, selection):
        return select_partitions(definitions, lineage, asset=asset, selection=selection)

    return of


def test_keys_are_taken_in_the_order_of_the_asset_once_each_and_with_spaces(select):
    found = select("domain_dataset", "freelaw, github,freelaw,")
    assert list(found) == ["github", "freelaw"]
    assert all(found.values())


def test_names_that_are_not_there_are_answered_with_those_that_are(select):
    with pytest.raises(UnknownKeyError, match="Did you mean 'github'"):
        select("domain_dataset", "github,gihub")
    with pytest.raises(UnknownKeyError, match="Did you mean 'domain_dataset'"):
        select("domain_datasets", "github")


@pytest.mark.in_use
@pytest.mark.parametrize("asset", ["perplexity_matrix", "seed_model"])
def test_an_asset_without_partitions_is_answered_with_what_makes_it(select, asset):
    with pytest.raises(UnknownKeyError, match=f"has no partitions.*--assets {asset}"):
        select(asset, "all")


def test_a_range_stands_for_the_partitions_between_its_ends():
    one_run = [LaunchedRun("1", "SUCCESS", ("a", "c"), 1.0, is_retry=False)]
    assert cli_backfill._covered(one_run, ["a", "b", "c", "d"]) == {"a", "b", "c"}


class Answers(http.server.BaseHTTPRequestHandler):
    """Says of a backfill that it runs, then breaks off once, then that it is done."""

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
        if "launchPartitionBackfill" in query:
            return self.say({"launchPartitionBackfill": {"backfillId": "abcdefgh"}})
        self.server.num_asked += 1
        if self.server.num_asked == 2 or self.server.is_down:
            return self.close_connection
        ended = self.server.num_asked > 2
        tags = [{"key": "dagster/partition", "value": "github"}]
        run = {"runId": "1", "status": "SUCCESS" if ended else "STARTED", "tags": tags}
        return self.say(
            {
                "partitionBackfillOrError": {
                    "status": "COMPLETED_SUCCESS" if ended else "REQUESTED",
                    "error": None,
                },
                "runsOrError": {"results": [run | {"startTime": 1.0, "endTime": 2.0}]},
            }
        )

    def say(self, data):
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def webserver(monkeypatch):
    monkeypatch.setattr(cli_backfill, "_POLL_SECONDS", 0.05)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.num_asked, server.is_down = 0, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def address_of(server):
    return Webserver(f"http://127.0.0.1:{server.server_address[1]}")


def test_a_webserver_that_breaks_off_is_asked_again(webserver, capsys):
    assert cli_backfill._backfill_there(address_of(webserver), "expert_model", ["github"]) == []
    assert webserver.num_asked == 3
    assert "success" in click.unstyle(capsys.readouterr().out)


def test_one_that_stays_away_is_given_up_and_the_backfill_is_named(webserver, monkeypatch):
    monkeypatch.setattr(cli_backfill, "_GRACE_SECONDS", 0.2)
    webserver.is_down = True
    with pytest.raises(WebserverError, match="The backfill abcdefgh continues"):
        cli_backfill._backfill_there(address_of(webserver), "expert_model", ["github"])


class OfAnotherHome(Answers):
    """A webserver with a daemon, which does not show the home of the test."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        healthy = {"daemonHealth": {"daemonStatus": {"healthy": True}}}
        return self.say({"repositoriesOrError": {"nodes": []}, "instance": healthy})


@pytest.fixture
def force(lineage, tmp_path, monkeypatch):
    """Return a function that runs ``mdel backfill --force`` on what is made of a shard."""
    make_one(lineage, "raw_pile_shard", "00")
    make_one(lineage, "shard_documents", "00")
    path = tmp_path / "pico.yaml"
    content = lineage.experiment.model_dump(mode="json", exclude_unset=True, by_alias=True)
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("MDEL_HOME", str(lineage.root.parent))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    words = ["backfill", "--asset", "shard_documents", "--partitions", "00", "--force"]

    def run(*more, fails=False):
        done = CliRunner().invoke(main, [*words, *more])
        assert done.exit_code == fails, done.output
        return done.output

    return run


def test_force_makes_anew_what_a_store_would_give_back(proxy, lineage, force, caplog):
    record = lineage.current("shard_documents", "00")
    caplog.clear()
    force("--here")
    assert [told for told in caplog.messages if "shard_documents '00' is made" in told]
    assert not [told for told in caplog.messages if "is fetched" in told]
    lineage.remote.look_again()
    assert lineage.artifact("shard_documents", "00").remote.find(record.fingerprint)


def test_force_removes_nothing_that_the_webserver_could_not_remake(lineage, force):
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    told = force("--webserver", f"http://127.0.0.1:{port}", fails=True)
    assert "No Dagster webserver answers" in told
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OfAnotherHome) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = force("--webserver", address_of(server).url, fails=True)
        server.shutdown()
    assert f"does not serve the experiment 'pico' in {lineage.root.parent}" in told
    assert lineage.current("shard_documents", "00")


def test_force_removes_nothing_that_this_process_could_not_remake(lineage, force, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
        assert "No room to write Dagster's history" in force("--here", fails=True)
    (lineage.root.parent / "file").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", str(lineage.root.parent / "file"))
    assert "is not writable" in force("--here", fails=True)
    assert lineage.current("shard_documents", "00")
