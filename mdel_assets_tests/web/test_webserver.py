"""What the client asks of a Dagster webserver, and what it makes of the answers."""

import http.server
import json
import threading

import pytest

from mdel_assets.web.webserver import Webserver

_STEP_FAILED = {"error": {"message": "wrapped", "causes": [{"message": "the disk is full\n"}]}}


class Logs(http.server.BaseHTTPRequestHandler):
    """Answers with two events of a run at a time, as Dagster does with a thousand."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        begin = int(asked["variables"].get("cursor") or 0)
        end = begin + 2
        found = {"events": self.server.events[begin:end], "cursor": str(end)}
        found["hasMore"] = end < len(self.server.events)
        content = json.dumps({"data": {"logsForRun": found}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Logs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ([_STEP_FAILED, {"message": "Steps failed."}], "the disk is full"),
        ([{"message": "The run was killed."}], "The run was killed."),
        ([], ""),
    ],
)
def test_a_failure_is_found_however_many_events_come_before_it(server, last, told):
    server.events = [{}, {}, {}, {}, {}, *last]
    assert Webserver(f"http://127.0.0.1:{server.server_address[1]}").failure("1") == told
