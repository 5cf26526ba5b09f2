"""The services of docker-compose.yml as processes of this machine.

Each service gets a folder for a root: the files that the Dockerfile copies, the volumes it mounts
as links, its temporary folders. In its own command, health check and environment those paths are
replaced by the ones here, names of services by 127.0.0.1, and ports by free ones. Nothing else of
this process's environment is passed on.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from mdel_assets_tests.deploy.compose_file import (
    ROOT,
    dockerfile_copies,
    image_environment,
    image_folder,
    mounts_of,
)
from mdel_assets_tests.deploy.postgres_cluster import as_other_user, give_to_other_user

_LONGEST_START_SECONDS, _LONGEST_STOP_SECONDS = 180.0, 120.0


class LocalServices:
    """Starts and stops the services of a compose file under ``root``.

    ``volumes`` holds the folders of named volumes. ``inputs`` stands in for mounted paths that lie
    outside the checkout. Programs are looked for beside this Python and in ``programs``.
    """

    def __init__(self, content: Mapping[str, Any], root: Path, *, programs: Path) -> None:
        self.services: Mapping[str, Any] = content["services"]
        self.root, self.programs = root, programs
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {port: _free_port() for port in self._ports()}
        for name in self.services:
            self._lay_out(name)
        # What lies in each root before anything runs.
        self.shipped = {name: self.files(name) for name in self.services}

    def volume(self, name: str) -> Path:
        """Return the folder that stands in for a named volume."""
        return self.root / "volumes" / name

    def log(self, name: str) -> Path:
        """Return the file with what a service printed."""
        return self.root / "logs" / f"{name}.log"

    def service_root(self, name: str) -> Path:
        """Return the folder that is a service's root."""
        return self.root / "roots" / name

    def in_order(self) -> Iterator[str]:
        """Give the services, each after those it depends on."""
        seen: set[str] = set()
        while left := [name for name in self.services if name not in seen]:
            ready = [n for n in left if set(self.services[n].get("depends_on", {})) <= seen]
            assert ready, f"services depend on each other: {left}"
            seen |= set(ready)
            yield from ready

    def start(self, name: str) -> None:
        """Start a service's command and wait until its own health check passes."""
        service = self.services[name]
        with self.log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name, service["command"]),
                env=self._environment(name),
                cwd=self._folder(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until_healthy(name)

    def wait_until_healthy(self, name: str) -> None:
        """Run a service's health check until it passes, as Docker does while a service starts."""
        how, *command = self.services[name]["healthcheck"]["test"]
        assert how == "CMD"
        deadline = time.monotonic() + _LONGEST_START_SECONDS
        while True:
            done = subprocess.run(
                self._command(name, command),
                env=self._environment(name),
                cwd=self._folder(name),
                capture_output=True,
                timeout=60,
            )
            if done.returncode == 0:
                return
            said = self.log(name).read_text("utf-8")[-3000:]
            assert self.processes[name].poll() is None, f"{name} ended:\n{said}"
            assert time.monotonic() < deadline, f"{name} is unhealthy:\n{done.stderr!r}\n{said}"
            time.sleep(1.0)

    def stop(self, name: str) -> int:
        """Stop a service as ``docker compose stop`` does, and return its exit status."""
        service, process = self.services[name], self.processes[name]
        number = signal.Signals[service.get("stop_signal", "SIGTERM")]
        if "TINI_KILL_PROCESS_GROUP" in service["environment"]:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            status = process.wait(timeout=_LONGEST_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} does not end:\n{self._stacks(name)}") from None
        del self.processes[name]
        return status

    def _stacks(self, name: str) -> str:
        """End what lives; return which processes that were, and where each thread of them was."""
        found = []
        for process in self.survivors():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(f"{process.pid} of {process.ppid()}: {' '.join(process.cmdline())}")
                if "python" in process.name() or "dagster" in process.name():
                    process.send_signal(signal.SIGABRT)
        time.sleep(3)
        logs = [self.log(name), *self.volume("mdel_home").rglob("*.err")]
        said = [path.read_text("utf-8", "replace")[-20_000:] for path in logs]
        return "\n".join([*found, said[0], *(text for text in said[1:] if "Fatal Python" in text)])

    def survivors(self) -> list[psutil.Process]:
        """Return the processes that live, of those that services or their children started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any(str(self.root) in value for value in process.environ().values()):
                    found.append(process)
        return found

    def kill_all(self) -> None:
        """Kill whatever is left of the services."""
        for process in self.survivors():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.processes.values():
            process.wait(timeout=10)

    def files(self, name: str) -> set[str]:
        """Return the files in a service's root, as the service names them."""
        root = self.service_root(name)
        return {
            f"/{path.relative_to(root)}"
            for path in root.rglob("*")
            # The image has its modules compiled already.
            if path.is_file() and "__pycache__" not in path.parts
        }

    def _ports(self) -> set[str]:
        commands = [" ".join(service["command"]) for service in self.services.values()]
        return {port for command in commands for port in re.findall(r"port[= ](\d+)", command)}

    def _lay_out(self, name: str) -> None:
        service, place = self.services[name], self.service_root(name)
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        for source, target in self._copies(service):
            to = place / target.lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            copy: Callable[..., Any] = shutil.copytree if source.is_dir() else shutil.copy
            options = {"dirs_exist_ok": True} if source.is_dir() else {}
            copy(source, to, **options)
        for mount in mounts_of(service):
            to = place / mount.target.lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            source = self.volume(mount.source) if mount.is_named else ROOT / mount.source
            if mount.is_named:
                source.mkdir(parents=True, exist_ok=True)
            # Two services that share an outer volume share what lies in it.
            if not to.is_symlink():
                to.symlink_to(source)
        for line in service.get("tmpfs", []):
            folder = place / line.split(":")[0].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
            if "build" not in service:
                give_to_other_user(folder)

    def _copies(self, service: Mapping[str, Any]) -> list[tuple[Path, str]]:
        if "build" not in service:
            return []
        return [(ROOT / source, target) for source, target in dockerfile_copies()]

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        words = [self._here(name, word) for word in command]
        found = shutil.which(words[0], path=self._path())
        assert found, f"{name}: no program {words[0]}"
        words[0] = found
        return words if "build" in self.services[name] else as_other_user(words)

    def _environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        hosts = dict.fromkeys(self.services, "127.0.0.1")
        given = {
            variable: hosts.get(value, self._here(name, str(value)))
            for variable, value in service["environment"].items()
        }
        ours = {"PATH": self._path(), "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        if "build" in service:
            # The image has the package installed from this folder, and HOME from its user.
            ours |= {"PYTHONPATH": str(self._folder(name)), "HOME": self._here(name, "/data")}
            ours["TMPDIR"] = self._here(name, "/tmp")
            # A process that does not end says where it is: see `stop`.
            ours["PYTHONFAULTHANDLER"] = "1"
            ours |= image_environment()
        return ours | given

    def _path(self) -> str:
        return f"{Path(sys.executable).parent}:{self.programs}:/usr/bin:/bin"

    def _folder(self, name: str) -> Path:
        folder = image_folder() if "build" in self.services[name] else "/"
        return self.service_root(name) / folder.lstrip("/")

    def _here(self, name: str, text: str) -> str:
        """Return ``text`` with this machine's folders, ports and addresses in it."""
        service = self.services[name]
        places = {mount.target for mount in mounts_of(service)} | {"/data", image_folder()}
        places |= {line.split(":")[0] for line in service.get("tmpfs", [])}
        pattern = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
        root = str(self.service_root(name))
        text = re.sub(rf"(?<![\w/.])({pattern})(?=/|$)", lambda match: root + match[0], text)
        for port, free in self.ports.items():
            text = re.sub(rf"(?<!\d){port}(?!\d)", str(free), text)
        return re.sub(r"(?<==)\*$|0\.0\.0\.0", "127.0.0.1", text)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
