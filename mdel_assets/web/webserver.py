"""A client for a running webserver, over GraphQL: identify its home, launch and follow backfills.

The web UI uses the same interface. Nothing here imports Dagster: the server may be elsewhere.
"""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mdel_assets.errors import WebserverError
from mdel_assets.home import place_in_words

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 30.0
_FIRST_TIMEOUT_SECONDS = 2.0
_LOCATIONS = """
query Locations {
  repositoriesOrError {
    ... on RepositoryConnection {
      nodes { allTopLevelResourceDetails { name description } }
    }
  }
  instance { daemonHealth { daemonStatus(daemonType: "BACKFILL") { healthy } } }
}"""
_LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
    ... on PartitionKeysNotFoundError { message }
  }
}"""
_PROGRESS = """
query Progress($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } }
    ... on BackfillNotFoundError { message }
  }
  runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
    ... on Runs { results { runId status tags { key value } startTime endTime } }
  }
}"""
_FAILURES = """
query Failures($id: ID!, $cursor: String) {
  logsForRun(runId: $id, afterCursor: $cursor) {
    ... on EventConnection {
      cursor
      hasMore
      events {
        ... on ExecutionStepFailureEvent { error { message causes { message } } }
        ... on RunFailureEvent { message }
      }
    }
  }
}"""


@dataclasses.dataclass(frozen=True)
class LaunchedRun:
    """One run of a backfill; ``keys`` are its first and last partition, or its only one.

    ``status`` is Dagster's: QUEUED, STARTED, SUCCESS, FAILURE, CANCELED and others in between.
    """

    run_id: str
    status: str
    keys: tuple[str, ...]
    elapsed_seconds: float
    is_retry: bool


@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of a backfill; ``status`` is Dagster's, ``error`` why it failed as a whole."""

    status: str
    runs: Sequence[LaunchedRun]
    error: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the backfill has ended."""
        return self.status not in {"REQUESTED", "CANCELING", "FAILING"}


class Webserver:
    """A Dagster webserver at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def serves(self, *, root: str, experiment: str) -> bool:
        """Whether the server answers, and shows ``experiment`` of the home ``root``."""
        try:
            found = self._ask(_LOCATIONS, timeout=_FIRST_TIMEOUT_SECONDS)
        except WebserverError:
            return False
        wanted = ("workspace", place_in_words(root=root, experiment=experiment))
        return any(
            (resource["name"], resource["description"]) == wanted
            for node in found["repositoriesOrError"].get("nodes", [])
            for resource in node["allTopLevelResourceDetails"]
        )

    def has_daemon(self) -> bool:
        """Whether a daemon that runs backfills sent a recent heartbeat.

        Raises:
            WebserverError: the server does not answer.

        """
        found = self._ask(_LOCATIONS, timeout=_FIRST_TIMEOUT_SECONDS)
        return bool(found["instance"]["daemonHealth"]["daemonStatus"]["healthy"])

    def launch_backfill(self, asset: str, keys: Iterable[str]) -> str:
        """Request a backfill of partitions of an asset; return its id.

        Raises:
            WebserverError: the server does not answer, or refuses.

        """
        params = {
            "assetSelection": [{"path": [asset]}],
            "partitionNames": list(keys),
            "title": f"mdel backfill {asset}",
        }
        answer = self._ask(_LAUNCH, {"params": params})["launchPartitionBackfill"]
        if "backfillId" not in answer:
            reason = answer.get("message") or answer["__typename"]
            raise WebserverError(f"{self.url} refused the backfill of {asset}: {reason}")
        return str(answer["backfillId"])

    def progress(self, backfill_id: str) -> Progress:
        """Return the state of a backfill.

        Raises:
            WebserverError: the server does not answer, or has no such backfill.

        """
        answer = self._ask(_PROGRESS, {"id": backfill_id})
        backfill = answer["partitionBackfillOrError"]
        if "status" not in backfill:
            raise WebserverError(f"{self.url}: {backfill.get('message', 'no such backfill')}")
        error = (backfill["error"] or {}).get("message", "")
        runs = [_launched(run) for run in answer["runsOrError"]["results"]]
        return Progress(backfill["status"], runs, error)

    def failure(self, run_id: str) -> str:
        """Return the message of the error that ended a run."""
        message = ""
        for event in self._failures(run_id):
            if error := event.get("error"):
                causes = [cause["message"] for cause in error["causes"]]
                return str([error["message"], *causes][-1]).strip()
            message = message or event.get("message") or ""
        return message

    def _failures(self, run_id: str) -> Iterator[Mapping[str, Any]]:
        """Yield a run's events, empty but for failures; one answer holds a thousand at most."""
        cursor, has_more = None, True
        while has_more:
            answer = self._ask(_FAILURES, {"id": run_id, "cursor": cursor})["logsForRun"]
            yield from answer.get("events", [])
            cursor, has_more = answer.get("cursor"), answer.get("hasMore", False)

    def _ask(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        *,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        import httpx2

        try:
            answer = httpx2.post(
                f"{self.url}/graphql",
                json={"query": query, "variables": variables or {}},
                timeout=timeout,
            )
            content = answer.json()
        except (httpx2.HTTPError, json.JSONDecodeError, httpx2.InvalidURL) as error:
            raise WebserverError(
                f"No Dagster webserver answers at {self.url} ({type(error).__name__}). Start one "
                f"with 'make ui', or leave --webserver out."
            ) from error
        if "data" not in content or content.get("errors"):
            raise WebserverError(f"{self.url} refused the query: {content.get('errors')}")
        return dict(content["data"])


def _launched(run: Mapping[str, Any]) -> LaunchedRun:
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    keys = [tags[name] for name in ("dagster/partition", *ends) if name in tags]
    begun, ended = run["startTime"], run["endTime"]
    return LaunchedRun(
        run_id=run["runId"],
        status=run["status"],
        keys=tuple(dict.fromkeys(keys)),
        elapsed_seconds=(ended - begun) if begun and ended else 0.0,
        is_retry="dagster/parent_run_id" in tags,
    )
