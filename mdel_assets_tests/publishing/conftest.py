"""A server of the Hub's protocol, an account on it, and publishers that go there."""

import dataclasses
import shutil

import pytest

from mdel_assets.home import MdelHome
from mdel_assets.hub.retries import RetryPolicy
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets_tests.publishing.hub_server import HubServer

TOKEN = "hf_planted0secret0token0value"
READER = "hf_a0token0that0may0only0read"
OWNER = "mdel-lab"
QUICK = RetryPolicy(first_wait_seconds=0.001, longest_wait_seconds=0.01)


@pytest.fixture
def hub(tmp_path):
    """A server with the organisation `OWNER`, whose members' token is `TOKEN`."""
    with HubServer(tmp_path / "server") as server:
        server.state.add_account(TOKEN, "alice", organizations=[OWNER])
        server.state.add_account(READER, "bob", organizations=[OWNER], role="read")
        yield server


@pytest.fixture
def own_home(finished, tmp_path):
    """A copy of the finished line that a test may change."""
    left_out = shutil.ignore_patterns("scores", "dagster", "cache", "publications")
    return MdelHome(shutil.copytree(finished[1].root, tmp_path / "home", ignore=left_out))


def publisher_to(server, experiment, *, token=TOKEN, namespace=OWNER, **changes):
    """Return a publisher to a test server that does not wait long."""
    publisher = make_publisher(
        experiment,
        endpoint=server.endpoint,
        environment={"HF_TOKEN": token} if token else {},
        retries=QUICK,
    )
    return dataclasses.replace(publisher, namespace=namespace, **changes)


def with_hub(experiment, **settings):
    """Return the experiment with other settings under ``hub``."""
    return experiment.model_copy(update={"hub": experiment.hub.model_copy(update=settings)})
