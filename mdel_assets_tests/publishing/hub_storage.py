"""The storage of large files: signed addresses, contents checked against their sha256."""

import hashlib
import json

from mdel_assets_tests.publishing.hub_state import RefusedError

STORAGE_ROUTES = [
    ("PUT", r"/objects/(?P<sha256>[0-9a-f]{64})", "put_object"),
    ("PUT", r"/parts/(?P<sha256>[0-9a-f]{64})/(?P<number>\d+)", "put_part"),
    ("POST", r"/parts/(?P<sha256>[0-9a-f]{64})", "join_parts"),
    ("GET", r"/objects/(?P<sha256>[0-9a-f]{64})", "get_object"),
    ("HEAD", r"/objects/(?P<sha256>[0-9a-f]{64})", "get_object"),
]


class HubStorage:
    """One request, and what the storage answers to it."""

    def __init__(self, hub, handler, body, query):
        self.hub, self.state = hub, hub.state
        self.handler, self.body, self.query = handler, body, query

    def json(self):
        return json.loads(self.body)

    def send(self, content, status=200, **options):
        self.handler.send(status, content, **options)

    def signed(self, method, path):
        return f"{self.hub.storage}{path}?signature={self._signature(method, path)}"

    def _signature(self, method, path):
        method = "GET" if method == "HEAD" else method
        return hashlib.sha256(f"{self.state.root} {method} {path}".encode()).hexdigest()[:32]

    def _require_signature(self, path):
        if self.query.get("signature") != self._signature(self.handler.command, path):
            raise RefusedError(403, "SignatureDoesNotMatch")

    def put_object(self, sha256):
        self._require_signature(f"/objects/{sha256}")
        path = self.state.root / "parts" / f"{sha256}-{id(self)}"
        path.write_bytes(self.body)
        self.state.put_object(sha256, path)
        self.send(b"")

    def put_part(self, sha256, number):
        self._require_signature(f"/parts/{sha256}/{number}")
        (self.state.root / "parts" / f"{sha256}.{number}").write_bytes(self.body)
        self.send(b"", headers={"ETag": hashlib.sha256(self.body).hexdigest()})

    def join_parts(self, sha256):
        self._require_signature(f"/parts/{sha256}")
        whole = self.state.root / "parts" / f"{sha256}-{id(self)}"
        with whole.open("wb") as file:
            for part in self.json()["parts"]:
                path = self.state.root / "parts" / f"{sha256}.{part['partNumber']}"
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != part["etag"]:
                    raise RefusedError(400, f"part {part['partNumber']} is another")
                file.write(content)
        self.state.put_object(sha256, whole)
        self.send({})

    def get_object(self, sha256):
        self._require_signature(f"/objects/{sha256}")
        headers = {"ETag": f'"{sha256}"'}
        self.handler.send_content(self.state.object_path(sha256), headers)
