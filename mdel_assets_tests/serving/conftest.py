"""A server on 127.0.0.1 in a thread of the tests' process, on a home with a finished line."""

import contextlib
import dataclasses
import json
import shutil
import socket
import threading

import httpx
import openai
import pytest
import yaml

from mdel_assets.home import MdelHome
from mdel_assets.serving.app import make_app
from mdel_assets.serving.keys import ApiKeys
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.meters import Meters
from mdel_assets.serving.server import ModelServer, listen
from mdel_assets.serving.service import Service
from mdel_assets_tests.conftest import forge

# Far more tokens than any test waits for.
ENDLESS = 50_000
# The seed model repeats its likeliest word for ever.
LOOPING = {"model": "seed", "prompt": "def", "max_tokens": ENDLESS, "temperature": 0}


@dataclasses.dataclass(frozen=True)
class Running:
    """A server that runs, and what a test looks at from inside."""

    url: str
    service: Service
    server: ModelServer

    def client(self, key="any key", **options):
        """Return OpenAI's own client, which asks once."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, **({"max_retries": 0} | options)
        )

    def meter(self, name, **labels):
        """Return a figure of ``/metrics``, as the registry holds it."""
        return self.service.meters.registry.get_sample_value(name, labels) or 0.0

    def close_door(self):
        """Do what SIGTERM does."""
        self.server.loop.call_soon_threadsafe(self.server.close_door)

    def post(self, content, *, path="/v1/completions", **options):
        """Return the answer to a body as it is, or to a value as JSON."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        return httpx.post(f"{self.url}{path}", content=content, timeout=60, **options)

    def get(self, path, **options):
        """Return the answer to a GET."""
        return httpx.get(f"{self.url}{path}", timeout=60, **options)

    def connect(self, *headers):
        """Return a connection on which the head of a POST to completions was sent."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=60)
        lines = ["POST /v1/completions HTTP/1.1", "host: localhost", "connection: close", *headers]
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return connection


@contextlib.contextmanager
def running(lineage, *, keys=(), names=(), **limits):
    """Serve while inside."""
    service = Service(lineage, limits=Limits(**limits), meters=Meters())
    server = ModelServer(service, make_app(service, keys=ApiKeys(keys), names=list(names)))
    with listen("127.0.0.1", 0) as place:
        # So little fits between server and client that an answer that is not read is not over.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
        port = place.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            yield Running(f"http://127.0.0.1:{port}", service, server)
        finally:
            with contextlib.suppress(RuntimeError):
                server.loop.call_soon_threadsafe(server.close_door)
            thread.join()


# What a chat is for the model `dense`, which refuses to be told what to be.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="package")
def lineage(finished, tmp_path_factory):
    """A finished line whose seed model writes texts of any length, and `dense` chats."""
    experiment, home, _ = finished
    folder = tmp_path_factory.mktemp("serving") / "home"
    shutil.copytree(home.root, folder, symlinks=True)
    lineage = MdelHome(folder).lineage(experiment)
    change(lineage.artifact("seed_model"), "config.json", max_position_embeddings=2 * ENDLESS)
    change(lineage.artifact("dense_baseline"), "tokenizer_config.json", chat_template=TEMPLATE)
    return lineage


def change(artifact, name, **fields):
    """Change fields of a JSON file of an artifact, as if it had been made like that."""
    path = artifact.folder / name
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(content | fields))
    forge(artifact)


@pytest.fixture(scope="package")
def server(lineage):
    """A server with small limits that most tests share."""
    with running(lineage, max_new_tokens=ENDLESS, grace_seconds=0.0) as found:
        yield found


@pytest.fixture(scope="package")
def environment(lineage, tmp_path_factory):
    """The variables by which commands find the served line."""
    path = tmp_path_factory.mktemp("experiment") / "pico.yaml"
    path.write_text(yaml.safe_dump(lineage.experiment.model_dump(mode="json", exclude_unset=True)))
    return {"MDEL_HOME": str(lineage.root.parent), "MDEL_EXPERIMENT": str(path)}
