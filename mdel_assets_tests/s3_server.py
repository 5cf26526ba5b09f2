"""An S3 server as a process of its own, and a proxy in front of it that makes faults."""

import contextlib
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "artifacts"
_HOST = "127.0.0.1"
# moto verifies no signature, but takes a request without one for a stranger's.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=b"
}


class S3Server:
    """moto's server on loopback; ``port`` is its port."""

    def __init__(self):
        with socket.socket() as taken:
            taken.bind((_HOST, 0))
            self.port = taken.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "moto's server ended"
            with contextlib.suppress(OSError):
                self.ask("PUT", f"/{BUCKET}")
                return
            assert time.monotonic() < deadline
            # A server that is starting refuses connections at once.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.05)

    def ask(self, method, path, *, body=b"", headers=None):
        """Return status, headers and content of an answer."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or SIGNED)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def names(self, prefix=""):
        """Return the names of all objects, as the server itself tells them."""
        found, after = [], ""
        while True:
            _, _, content = self.ask(
                "GET", f"/{BUCKET}?list-type=2&prefix={prefix}&start-after={after}"
            )
            names = re.findall(r"<Key>(.*?)</Key>", content.decode())
            found += names
            if b"<IsTruncated>true" not in content:
                return found
            after = names[-1]

    def content(self, name):
        """Return what an object holds."""
        return self.ask("GET", f"/{BUCKET}/{name}")[2]

    def replace(self, name, content):
        """Let an object hold something else."""
        self.ask("PUT", f"/{BUCKET}/{name}", body=content)

    def delete(self, name):
        """Delete an object."""
        self.ask("DELETE", f"/{BUCKET}/{name}")

    def end(self):
        """End the process."""
        self.process.terminate()
        self.process.wait()


class FaultyProxy:
    """Passes requests on to a server; some of them it refuses, or cuts off in the middle.

    ``refused`` and ``cut`` are the shares of requests. Of those that are cut, half reach the server
    and only their answer is lost. ``asked`` are all requests, as (method, path).
    """

    def __init__(self, server, *, refused=0.0, cut=0.0, seed=0):
        self.server, self.refused, self.cut = server, refused, cut
        # What a refusal says: 503 that the server is busy, 403 that the credentials are wrong.
        self.refusal = 503
        self.draw = random.Random(seed)
        self.asked = []
        # The range that each request asks for, as (path, range or None).
        self.ranges = []
        self.lock = threading.Lock()
        self.num_open, self.idle = 0, threading.Condition()
        # Called with method and path before a request is passed on.
        self.before = lambda method, path: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # Else connections beyond five are dropped, and tried again after seconds.
            request_queue_size = 128

            def handle_error(self, request, client_address):
                """A client that was killed is no error."""

        self.http = Server((_HOST, 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @property
    def environment(self):
        """What leads obstore here."""
        return {
            "AWS_ENDPOINT_URL": f"http://{_HOST}:{self.http.server_port}",
            "AWS_ACCESS_KEY_ID": "key-of-the-tests",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "MDEL_STORE": f"s3://{BUCKET}/shared",
        }

    def answer(self, request):
        """Answer one request of a client."""
        with self.idle:
            self.num_open += 1
        try:
            self._answer(request)
        finally:
            with self.idle:
                self.num_open -= 1
                self.idle.notify_all()

    def wait_until_idle(self):
        """Wait until every request that has come is answered."""
        with self.idle:
            self.idle.wait_for(lambda: self.num_open == 0)

    def _answer(self, request):
        method, path = request.command, request.path
        with self.lock:
            self.asked.append((method, path))
            self.ranges.append((path, request.headers.get("Range")))
            fault = self.draw.random()
            is_late = self.draw.random() < 0.5
        self.before(method, path)
        is_cut = self.refused <= fault < self.refused + self.cut
        length = int(request.headers.get("Content-Length") or 0)
        if is_cut and not is_late:
            request.rfile.read(length // 2)
            _hang_up(request)
            return
        body = request.rfile.read(length)
        if len(body) < length:
            # The client was killed meanwhile.
            _hang_up(request)
            return
        if fault < self.refused:
            request.send_response(self.refusal)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        headers = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
        status, answered, content = self.pass_on(method, path, body=body, headers=headers)
        request.send_response_only(status)
        dropped = {"connection", "transfer-encoding", "keep-alive"}
        for key, value in answered:
            if key.lower() not in dropped:
                request.send_header(key, value)
        if not any(key.lower() == "content-length" for key, _ in answered):
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if is_cut:
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            _hang_up(request)
        elif method != "HEAD":
            request.wfile.write(content)

    def pass_on(self, method, path, *, body, headers):
        """Return the server's status, headers and content."""
        return self.server.ask(method, path, body=body, headers=headers)

    def num_asked(self, method, part=""):
        """Return how many requests there were with ``part`` in their path."""
        return sum(m == method and part in path for m, path in self.asked)

    def end(self):
        """Close the door."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def _hang_up(request):
    request.close_connection = True
    with contextlib.suppress(OSError):
        request.connection.shutdown(socket.SHUT_RDWR)


def without_credentials(environment=os.environ):
    """Return the environment without what leads to any store."""
    return {k: v for k, v in environment.items() if not k.startswith(("AWS_", "MDEL_STORE"))}
