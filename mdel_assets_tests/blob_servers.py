"""Azure's storage as a process of its own, and Google's as far as it is S3's with other headers."""

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from mdel_assets_tests.s3_server import BUCKET, SIGNED, FaultyProxy

_HOST = "127.0.0.1"
# Azurite's own account. Its key is part of Azurite's documentation: whoever runs it has the same.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-12-02"


def azurite() -> str | None:
    """Return the path of Azurite's server for blobs, where `make test_services` put it."""
    places = sorted(Path(sys.prefix).glob("azurite@*/node_modules/.bin/azurite-blob"))
    return str(places[-1]) if places else shutil.which("azurite-blob")


class AzureServer:
    """Azurite on loopback, with an empty container."""

    def __init__(self, folder):
        with socket.socket() as taken:
            taken.bind((_HOST, 0))
            self.port = taken.getsockname()[1]
        command = [azurite(), "--blobHost", _HOST, "--blobPort", str(self.port)]
        command += ["--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"]
        self.process = subprocess.Popen(
            [*command, "--silent"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "Azurite ended"
            with contextlib.suppress(OSError):
                assert self._make_container() == 201
                return
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.05)

    def _make_container(self):
        now = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        own = f"x-ms-date:{now}\nx-ms-version:{_VERSION}"
        place = f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
        signed = "PUT" + "\n" * 12 + f"{own}\n{place}"
        digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
        headers = dict(line.split(":", 1) for line in own.split("\n"))
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
        path = f"/{_ACCOUNT}/{BUCKET}?restype=container"
        return self.ask("PUT", path, headers=headers)[0]

    def ask(self, method, path, *, body=b"", headers=None):
        """Return status, headers and content of an answer."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def end(self):
        """End the process."""
        self.process.terminate()
        self.process.wait()


class AzureProxy(FaultyProxy):
    """The door to an `AzureServer`."""

    @property
    def environment(self):
        """What leads obstore here."""
        return {
            "AZURE_STORAGE_ENDPOINT": f"http://{_HOST}:{self.http.server_port}/{_ACCOUNT}",
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            "AZURE_ALLOW_HTTP": "true",
            "MDEL_STORE": f"az://{BUCKET}/shared",
        }


class GoogleProxy(FaultyProxy):
    """A door through which an S3 server looks like Google's: other credentials and conditions."""

    @property
    def environment(self):
        """What leads obstore here."""
        return {
            "GOOGLE_BASE_URL": f"http://{_HOST}:{self.http.server_port}",
            "GOOGLE_BEARER_TOKEN": "token-of-the-tests",
            "GOOGLE_ALLOW_HTTP": "true",
            "MDEL_STORE": f"gs://{BUCKET}/shared",
        }

    def pass_on(self, method, path, *, body, headers):
        """Ask the S3 server the same, and answer as Google does."""
        asked = {k.lower(): v for k, v in headers.items()}
        assert asked.pop("authorization") == "Bearer token-of-the-tests"
        if asked.pop("x-goog-if-generation-match", None) == "0":
            asked["if-none-match"] = "*"
        status, answered, content = self.server.ask(method, path, body=body, headers=asked | SIGNED)
        return status, [*answered, ("x-goog-generation", "1")], content
