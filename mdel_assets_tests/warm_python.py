"""New Python processes without the seconds that loading the libraries takes.

`start` and `run` stand in for `subprocess.Popen` and `subprocess.run` of this Python: what they
return is a process of its own, with its own pid, environment, streams and folder, that can be
killed. It is forked from an interpreter that has loaded the libraries, one for each process of
tests, instead of loading them itself; and so is what it starts by its own `sys.executable`
(`warm_client`). Where a test is about the start itself, use `subprocess`.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import psutil

from mdel_assets_tests.waiting import wait_until
from mdel_assets_tests.warm_interpreter import MAX_REQUEST_BYTES

CLIENT = Path(__file__).with_name("warm_client.py")
_addresses: list[str] = []
MDEL = ("-c", "from mdel_assets.cli.main import main; main(prog_name='mdel')")


class Process:
    """A process that `start` began, with what tests use of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, output: IO[str] | None) -> None:
        self._connection = connection
        self.pid: int = json.loads(connection.recv(MAX_REQUEST_BYTES))["pid"]
        self.stdout = output
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how the process ended, or None while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(timeout=0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; a negative status is the signal that ended the process."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(MAX_REQUEST_BYTES)
            except BlockingIOError:
                raise TimeoutError from None
            self.returncode = json.loads(answer)["status"]
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Return all that the process printed, once it has ended."""
        found: list[str] = []
        assert self.stdout is not None
        reader = threading.Thread(target=lambda: found.append(self.stdout.read()), daemon=True)
        reader.start()
        self.wait(timeout)
        reader.join()
        self.stdout.close()
        return found[0], None

    def read_until(self, words: str) -> None:
        """Read what the process prints up to the line that holds ``words``."""
        assert self.stdout is not None
        seen = []
        for line in self.stdout:
            seen.append(line)
            if words in line:
                return
        raise AssertionError("".join(seen)[-5000:])

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for the end, or see to it where the test has failed."""
        if kind is not None:
            self.kill()
        self.wait()
        if self.stdout is not None:
            self.stdout.close()


def start(
    words: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = subprocess.PIPE,
    errors: IO[bytes] | None = None,
    with_hub: bool = True,
) -> Process:
    """Start ``python *words``, where the words begin with ``-c`` or ``-m``.

    Both its streams go to ``output``, or into the pipe that is the process's ``stdout``; with
    ``errors``, its standard error goes there. Without
    ``with_hub``, the process itself loads what reads the Hub's settings from its environment.
    """
    reading, writing = None, output
    with contextlib.ExitStack() as stack:
        if output == subprocess.PIPE:
            ours, theirs = os.pipe()
            reading, writing = os.fdopen(ours), stack.enter_context(os.fdopen(theirs, "wb"))
        elif output == subprocess.DEVNULL:
            writing = stack.enter_context(Path(os.devnull).open("wb"))
        nothing = stack.enter_context(Path(os.devnull).open("rb"))
        request = {
            "words": list(map(str, words)),
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "numbers": [0, 1, 2],
            "is_unbuffered": False,
        }
        address = _interpreter(with_hub=with_hub)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(address)
        streams = [nothing.fileno(), writing.fileno(), (errors or writing).fileno()]
        place = Path(f"{address}-{uuid.uuid4()}")
        place.write_text(json.dumps(request))
        socket.send_fds(connection, [str(place).encode()], streams)
        return Process(connection, reading)


def run(
    words: Sequence[str], *, check: bool = False, **options
) -> "subprocess.CompletedProcess[str]":
    """Run ``python *words`` to its end; ``stdout`` of what is returned holds both its streams."""
    with start(words, **options) as process:
        printed = process.communicate()[0] if process.stdout else ""
    done = subprocess.CompletedProcess(list(words), process.wait(), printed)
    assert not check or done.returncode == 0, printed[-5000:]
    return done


def executable() -> str:
    """Return the path of a command that stands in for this Python wherever a test names one."""
    return f"{_interpreter(with_hub=True)}-python"


def family(pid: int) -> list[psutil.Process]:
    """Return a process, all that it began and all that these began, as far as they live."""
    found: list[psutil.Process] = []
    left = [pid]
    while left:
        pid = left.pop()
        # What such a process stands in for is nobody's child.
        stood_for = [Path(f"{address}-{pid}") for address in _addresses]
        left += [int(path.read_text()) for path in stood_for if path.exists()]
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
            left += [child.pid for child in found[-1].children()]
    return found


@functools.cache
def _interpreter(*, with_hub: bool) -> str:
    """Start this process's interpreter of a kind; return where it listens."""
    folder = tempfile.mkdtemp(prefix="warm-")
    address = f"{folder}/socket"
    command = [sys.executable, "-W", "ignore", "-m", "mdel_assets_tests.warm_interpreter"]
    command += [address, "with-hub" if with_hub else "without-hub"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        # It ends when this is closed, also because this process was killed.
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder)

    atexit.register(end)
    # Minutes where others keep all processors busy.
    wait_until(
        lambda: process.poll() is not None or Path(address).exists(), seconds=600.0, every=0.02
    )
    assert process.poll() is None
    _addresses.append(address)
    return address
