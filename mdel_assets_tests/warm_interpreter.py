"""The process that `warm_python` forks others from: it has loaded the libraries and waits.

Each request comes over a Unix socket of its own, with the new process's standard streams; the
answer is its pid at once, and how it ended once it has.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn

import mdel_assets

MAX_REQUEST_BYTES = 1 << 20
_MAX_STREAMS = 250
_ABOVE_STREAMS = 600
_LIBRARIES = [
    "dagster._cli",
    "httpx2",
    "jinja2",
    "matplotlib.figure",
    "mdel_assets.cli.main",
    "pandas",
    "pyarrow.dataset",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.linear_model",
    "tokenizers",
    "torch._dynamo",
    "torch.distributed.fsdp",
]
# They read the Hub's address and the place of its cache from the environment when they are loaded.
_WITH_HUB = ["transformers.models.gpt_neox.modeling_gpt_neox", "transformers.trainer"]
# It builds its definitions from the environment, which is not the new process's yet.
_NOT_LOADED = {"mdel_assets.definitions"}


def serve(address: str, *, with_hub: bool) -> None:
    """Load the libraries, then fork a process for every request until standard input is closed."""
    _stand_in_for_python(address)
    _load(with_hub=with_hub)
    # Those who wait for the new processes are waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{address}-unready")
        listener.listen()
        Path(f"{address}-unready").rename(address)
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
                os._exit(0)
            connection.close()


def _stand_in_for_python(address: str) -> None:
    """Let what new processes take for their Python ask this interpreter for others."""
    program = Path(f"{address}-python")
    client = Path(__file__).with_name("warm_client.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {client} {address} "$@"\n')
    program.chmod(0o755)
    # Before anything reads it as it is loaded.
    sys.executable = str(program)


def _load(*, with_hub: bool) -> None:
    names = list(_LIBRARIES)
    if with_hub:
        found = pkgutil.walk_packages(mdel_assets.__path__, "mdel_assets.")
        names += _WITH_HUB + [module.name for module in found if not module.ispkg]
    for name in names:
        if name not in _NOT_LOADED:
            importlib.import_module(name)
    assert with_hub or "huggingface_hub" not in sys.modules
    # It makes a temporary folder as it is loaded, which the first process to end would delete.
    assert "wandb" not in sys.modules
    # A collection in a forked process would write to, and so copy, every page of the libraries.
    gc.collect()
    gc.freeze()


def _answer(connection: socket.socket) -> None:
    """Fork the process that a request asks for, send its pid and, when it has ended, its status.

    Who asked and is gone wants it no longer.
    """
    place, streams, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, _MAX_STREAMS)
    if not place:
        return
    request = json.loads(Path(place.decode()).read_text())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request, streams)
    for stream in streams:
        os.close(stream)
    # Where `warm_python.family` finds it.
    Path(place.decode()).write_text(str(pid))
    connection.send(json.dumps({"pid": pid}).encode())
    ended = os.pidfd_open(pid)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Run what is asked for in this process, and end it as a new interpreter would."""
    # First out of the way: a stream may have come as the number that another one is to have.
    above = [fcntl.fcntl(stream, fcntl.F_DUPFD, _ABOVE_STREAMS) for stream in streams]
    for stream in streams:
        os.close(stream)
    for number, stream in zip(request["numbers"], above, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    if request["is_unbuffered"]:
        for text in (sys.stdout, sys.stderr):
            text.reconfigure(write_through=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    warnings.simplefilter("ignore")
    status = 0
    try:
        _run(*request["words"])
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status = int(bool(end.code)) if isinstance(end.code, str) else end.code or 0
    except BaseException as error:  # noqa: BLE001  (it is shown, as an interpreter does)
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    # What is left of an interpreter's end is to take the libraries apart, for seconds.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _run(option: str, what: str, *arguments: str) -> None:
    sys.path[0] = ""
    if option == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [option, *arguments]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    serve(sys.argv[1], with_hub=sys.argv[2] == "with-hub")
