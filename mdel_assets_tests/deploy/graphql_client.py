"""What the web page asks of the webserver, asked over GraphQL."""

from collections.abc import Sequence
from typing import Any

import httpx2

_BACKFILL = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack } } }
"""
_RUN = """
mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack } } }
"""
_TERMINATE = """
mutation ($id: String!) { terminateRun(runId: $id) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message stack } } }
"""
_STATE_OF_BACKFILL = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status error { message stack } runs { runId status } } } }
"""
_STATE_OF_RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_LOGS = """
query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  __typename ... on MessageEvent { message }
  ... on ExecutionStepFailureEvent { error { message stack cause { message } } } } } } }
"""
_PAGES = """
query { instance { info daemonHealth { allDaemonStatuses { daemonType healthy } } }
  workspaceOrError { ... on Workspace { locationEntries { name loadStatus
    locationOrLoadError { ... on PythonError { message stack } } } } }
  runsOrError { ... on Runs { results { runId tags { key value } runConfigYaml } } } }
"""


class Webserver:
    """A running webserver, asked over GraphQL; ``said`` keeps every answer."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.said: list[str] = []

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the data of a query's answer, which must hold no error."""
        content = {"query": query, "variables": variables}
        reply = httpx2.post(f"{self.address}/graphql", json=content, timeout=60)
        self.said.append(reply.text)
        answer = reply.json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Start a backfill and return its id."""
        selection = [{"path": [asset]} for asset in assets]
        params = {"assetSelection": selection, "partitionNames": list(partitions)}
        answer = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def launch(self, asset: str, partition: str) -> str:
        """Start a run of one partition and return its id."""
        selector = {
            "jobName": "__ASSET_JOB",
            "repositoryName": "__repository__",
            "repositoryLocationName": "mdel_assets",
            "assetSelection": [{"path": [asset]}],
        }
        tags = [{"key": "dagster/partition", "value": partition}]
        params = {"selector": selector, "executionMetadata": {"tags": tags}}
        answer = self.ask(_RUN, params=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def terminate(self, number: str) -> None:
        """End a run as its page's button "Terminate" does."""
        answer = self.ask(_TERMINATE, id=number)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def backfill_state(self, number: str) -> Any:
        """Return a backfill's status, error and runs."""
        return self.ask(_STATE_OF_BACKFILL, id=number)["partitionBackfillOrError"]

    def run_status(self, number: str) -> str:
        """Return a run's status."""
        return str(self.ask(_STATE_OF_RUN, id=number)["runOrError"]["status"])

    def messages(self, number: str) -> list[str]:
        """Return the messages of a run's events, with those of errors."""
        return [str(event) for event in self.ask(_LOGS, id=number)["logsForRun"]["events"]]

    def read_pages(self) -> Any:
        """Ask for what the pages on the deployment and the runs show, and fetch the page itself."""
        self.said.append(httpx2.get(self.address, timeout=60).text)
        return self.ask(_PAGES)
