"""Publisher: the destination of an experiment's publications, from environment and ``hub`` section.

Creating one fails at once without a token, before anything is read or computed.
"""

import dataclasses
import os
from collections.abc import Mapping

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.hub.credentials import require_token
from mdel_assets.hub.retries import RetryPolicy
from mdel_assets.publishing.backend import Backend, Repository
from mdel_assets.publishing.publication import NO_RETRIES, with_publishing_retries


@dataclasses.dataclass(frozen=True)
class Publisher:
    """The destination and the names of publications. With ``dry_run`` nothing is sent."""

    backend: Backend
    namespace: str
    private: bool
    retries: RetryPolicy
    dry_run: bool = False


def open_backend(endpoint: str | None, *, environment: Mapping[str, str] = os.environ) -> Backend:
    """Return the backend at ``endpoint``: a folder for ``file:``, else a Hub.

    Raises:
        MissingTokenError: it is a Hub, and there is no token.

    """
    if endpoint and endpoint.startswith("file:"):
        from mdel_assets.publishing.folder_backend import FolderBackend

        return FolderBackend(endpoint)
    token = require_token(environment)
    from mdel_assets.publishing.hub_backend import HubBackend

    return HubBackend(endpoint or environment.get("HF_ENDPOINT") or None, token=token)


def make_publisher(
    experiment: Experiment,
    *,
    endpoint: str | None = None,
    dry_run: bool = False,
    retries: RetryPolicy | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Publisher:
    """Return the publisher of an experiment; ``endpoint`` overrides the experiment's own.

    Raises:
        MissingTokenError: there is no token.
        PublishingError: the server does not accept the token, or cannot be reached.

    """
    backend = open_backend(endpoint or experiment.hub_endpoint, environment=environment)
    retries = retries or (NO_RETRIES if dry_run else RetryPolicy())
    namespace = experiment.hub.namespace or with_publishing_retries(
        backend.owner, what=f"asking {backend.location} who the token's user is", retries=retries
    )
    return Publisher(backend, namespace, experiment.hub.private, retries, dry_run)


def repository_of(experiment: Experiment, kind: str, key: str, *, namespace: str) -> Repository:
    """Return the repository of a publication: a ``hub_dataset``, a ``hub_expert`` and so on.

    Its name comes from the template in the experiment's ``hub`` section.
    """
    hub = experiment.hub
    if kind == "hub_dataset":
        return Repository("dataset", f"{namespace}/{hub.dataset_name.format(domain=key)}")
    if kind == "hub_expert":
        return Repository("model", f"{namespace}/{hub.expert_name.format(domain=key)}")
    if kind == "hub_mixture":
        return Repository("model", f"{namespace}/{hub.mixture_name.format(mixture=key)}")
    return Repository("model", f"{namespace}/{hub.merged_name.format(recipe=key)}")
