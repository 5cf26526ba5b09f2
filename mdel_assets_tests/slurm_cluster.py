"""A SLURM cluster of this machine alone: munged, slurmctld and slurmd as plain processes."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
}
_CONFIGURATION = """
ClusterName=mdel
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
KillWait=20
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """The cluster in ``folder``. Its node does not see ``hidden_folder``, where one is named."""

    def __init__(self, folder: Path, *, hidden_folder: Path | None = None) -> None:
        missing = sorted({package for name, package in PROGRAMS.items() if not _which(name)})
        if missing:
            pytest.skip(f"no SLURM: {' and '.join(missing)} missing; run make test_services")
        self._hide = hiding(hidden_folder)
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the three daemons and wait for the node to be idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        controller_port, node_port = free_ports(2)
        text = _CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            controller_port=controller_port,
            node_port=node_port,
            folder=self.folder,
            user=getpass.getuser(),
        )
        self.configuration.write_text(text)
        names = ("socket", "pid", "log", "seed")
        files = [f"--{n}-file={self.folder}/munged.{n}" for n in names if n != "socket"]
        munge = [f"--socket={self.folder}/munge.socket", f"--key-file={key}", *files]
        self._start("munged", "--force", "--foreground", "--num-threads=2", *munge)
        self._wait_until((self.folder / "munge.socket").exists)
        self._start("slurmctld", "-D", "-f", str(self.configuration))
        self._start(*self._hide, _which("slurmd"), "-D", "-f", str(self.configuration))
        self._wait_until(lambda: self.run("sinfo", "--noheader", "--format=%T") == "idle")

    def stop(self) -> None:
        """Cancel what runs and end the daemons."""
        if self._processes:
            self.run("scancel", f"--user={getpass.getuser()}")
            self._wait_until(lambda: not self.run("squeue", "--noheader"))
        for process in reversed(self._processes):
            process.terminate()
            process.wait(timeout=30)

    def run(self, *command: str) -> str:
        """Return what one of SLURM's own commands prints."""
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.stdout.strip()

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Return name and state of every job that SLURM remembers, by id."""
        text = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i|%j|%T")
        rows = [line.split("|") for line in text.splitlines()]
        return {number: (name, state) for number, name, state in rows}

    def _start(self, *command: str) -> None:
        name, *options = command
        with (self.folder / f"{len(self._processes)}.out").open("wb") as output:
            process = subprocess.Popen([_which(name), *options], stdout=output, stderr=output)
        self._processes.append(process)

    def _wait_until(self, is_so) -> None:
        until = time.monotonic() + 60
        while not is_so():
            for process in self._processes:
                assert process.poll() is None, f"{process.args} ended, see {self.folder}"
            assert time.monotonic() < until, f"SLURM does not start, see {self.folder}"
            time.sleep(0.05)


def _which(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


def hiding(folder: Path | None) -> list[str]:
    """Return words before a command with which it and its children do not see a folder."""
    if folder is None:
        return []
    if os.geteuid() != 0:
        pytest.skip("only root can hide a folder from a process: run this test as root")
    mount = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh", str(folder)]


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
