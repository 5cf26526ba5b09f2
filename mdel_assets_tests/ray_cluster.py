"""A Ray cluster of this machine alone: two nodes' worth of processes."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mdel_assets_tests.slurm_cluster import free_ports, hiding

NUM_CPUS = 2
# No figures leave this machine; a job that is stopped has time to save a checkpoint.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
}


class RayCluster:
    """A head and a second node, each of which says to have two processors.

    Neither sees ``hidden_folder``, where one is named.
    """

    def __init__(self, *, hidden_folder: Path | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            pytest.skip("no Ray: install the extra 'ray' (make setup_dev installs it)")
        self._hide = hiding(hidden_folder)
        # Ray's sockets allow for short paths only.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._processes: list[subprocess.Popen[bytes]] = []
        port, dashboard_port = free_ports(2)
        self.address = f"http://127.0.0.1:{dashboard_port}"
        self._head = f"127.0.0.1:{port}"
        self._options = [
            ["--head", f"--port={port}", f"--dashboard-port={dashboard_port}"],
            [f"--address={self._head}"],
        ]

    def start(self) -> None:
        """Start both nodes and wait for the dashboard to know them."""
        for node, options in enumerate(self._options):
            # Those of another cluster on this machine would be taken.
            ports = zip(("listen", "grpc"), free_ports(2), strict=True)
            agent = [f"--dashboard-agent-{use}-port={port}" for use, port in ports]
            own = ["--node-ip-address=127.0.0.1", f"--num-cpus={NUM_CPUS}", "--block"]
            command = [sys.executable, "-m", "ray.scripts.scripts", "start"]
            memory = "--object-store-memory=80000000"
            if node == 0:
                options += ["--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}"]
            with (self.folder / f"node{node}.out").open("wb") as output:
                process = subprocess.Popen(
                    [*self._hide, *command, *own, *agent, memory, *options],
                    env=os.environ | _ENVIRONMENT,
                    stdout=output,
                    stderr=output,
                )
            self._processes.append(process)
            self._wait_until(lambda count=node + 1: self._num_nodes() == count)

    def stop(self) -> None:
        """End both nodes; each ends what it started."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Return state and node of every job that Ray remembers, by id."""
        import httpx2

        found = httpx2.get(f"{self.address}/api/jobs/").raise_for_status().json()
        return {job["submission_id"]: (job["status"], job["driver_node_id"]) for job in found}

    def stop_job(self, number: str) -> None:
        import httpx2

        httpx2.post(f"{self.address}/api/jobs/{number}/stop").raise_for_status()

    def _num_nodes(self) -> int:
        import httpx2

        try:
            answer = httpx2.get(f"{self.address}/nodes?view=summary", timeout=5)
            nodes = answer.json()["data"]["summary"]
        except (httpx2.HTTPError, ValueError, KeyError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def _output(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("node*.out")))

    def _wait_until(self, is_so) -> None:
        until = time.monotonic() + 90
        while not is_so():
            for process in self._processes:
                assert process.poll() is None, self._output()
            assert time.monotonic() < until, self._output()
            time.sleep(0.2)
