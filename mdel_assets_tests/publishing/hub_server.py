"""A server on loopback that speaks the Hub's HTTP protocol to the unmodified client.

Two ports, as the Hub has two hosts: one for the API, which wants a token, and one for the storage
of large files, reached by signed addresses, which must never see a token. `HubState` keeps
everything on disk; `Faults` says what goes wrong. The storage in pieces (multipart) is used for
files above ``part_bytes``.
"""

import http.server
import json
import re
import threading
import urllib.parse

from mdel_assets_tests.publishing.hub_api import HubApi
from mdel_assets_tests.publishing.hub_faults import CUT_ANSWER, CUT_REQUEST, ERROR, Faults
from mdel_assets_tests.publishing.hub_state import HubState, RefusedError


class HubServer:
    """The two servers over one state; a context manager that starts and stops them."""

    def __init__(self, root, *, faults=None, part_bytes=None, page_size=1000):
        self.state = HubState(root)
        self.faults = faults or Faults()
        self.part_bytes = part_bytes
        self.page_size = page_size
        self.requests = []
        self.tokens_at_storage = []
        self._servers = [_Listener(self, is_storage=flag) for flag in (False, True)]
        self.endpoint, self.storage = (
            f"http://127.0.0.1:{server.server_port}" for server in self._servers
        )
        self._threads = []

    def commits(self, kind, repo_id):
        """Return the messages of the commits that clients made, the newest first."""
        history = self.state.repository(kind, repo_id).history()
        return [commit["message"] for _, commit in history if commit["parent"]]

    def paths(self, method):
        """Return the paths that were asked for by ``method``."""
        return [path for seen, path, _ in self.requests if seen == method]

    def __enter__(self):
        for server in self._servers:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Answer nobody any more; a second time does nothing."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
        self._servers, self._threads = [], []


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # A client that goes away in the middle is what is tested: no traceback for it.
    block_on_close = False

    def __init__(self, hub, *, is_storage):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.is_storage = is_storage

    def handle_error(self, request, client_address):
        pass


class _CutError(Exception):
    """The connection is closed here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hub"
    sys_version = ""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self):
        hub = self.server.hub
        url = urllib.parse.urlsplit(self.path)
        hub.requests.append((self.command, self.path, self.server.is_storage))
        if self.server.is_storage and self.headers.get("Authorization"):
            hub.tokens_at_storage.append(self.path)
        fault = hub.faults.draw(self.command, url.path)
        self.cut_answer = bool(fault and fault.kind == CUT_ANSWER)
        try:
            body = self._read_body(halve=bool(fault and fault.kind == CUT_REQUEST))
            if fault and fault.kind == ERROR:
                extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                self.send(fault.status, {"error": "as planned"}, headers=extra)
                return
            api = HubApi(hub, self, body, dict(urllib.parse.parse_qsl(url.query)))
            try:
                api.answer(self.command, urllib.parse.unquote(url.path), self.server.is_storage)
            except RefusedError as refusal:
                headers = {"X-Error-Message": refusal.message.replace("\n", " ")}
                if refusal.code:
                    headers["X-Error-Code"] = refusal.code
                content = {"error": refusal.message, **refusal.extra}
                self.send(refusal.status, content, headers=headers)
        except _CutError:
            self.close_connection = True

    def _read_body(self, *, halve):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if halve:
                    raise _CutError
            self.rfile.readline()
        else:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size // 2 if halve else size)
        if halve:
            raise _CutError
        return body

    def send(self, status, content=b"", *, headers=None, size=None):
        """Answer; a dict or list goes as JSON. ``size`` is the length told to a HEAD request."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        is_bare = self.command == "HEAD" or not content
        if self.cut_answer and is_bare:
            raise _CutError
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if size is None else size))
        self.end_headers()
        if self.cut_answer:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            raise _CutError
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_content(self, path, headers):
        """Answer with a file, whole or in the range that is asked for."""
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            shown = b"" if self.command == "HEAD" else content
            self.send(200, shown, headers={**headers, "Accept-Ranges": "bytes"}, size=len(content))
            return
        first = int(wanted[1])
        last = min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if first > last:
            headers = {"Content-Range": f"bytes */{len(content)}"}
            self.send(416, b"", headers=headers)
            return
        part = content[first : last + 1]
        headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self.send(206, part, headers=headers, size=len(part))
