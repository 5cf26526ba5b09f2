"""What stands in for the Python of a process that `warm_python` began, as its `sys.executable`.

``python -I -S warm_client.py ADDRESS WORDS`` does what ``python WORDS`` does. Modules, commands of
``mdel`` and what multiprocessing starts are forked from the interpreter at ADDRESS, with this
process's open files; this process passes signals on and ends as the other one does, which is killed
if this one is. Everything else becomes an ordinary Python. It imports little: it is to start at
once.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

_PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def main(address: str, *words: str) -> NoReturn:
    """Become what the words ask for."""
    command, is_unbuffered = _command(list(words))
    if not command:
        os.execv(sys.executable, [sys.executable, *words])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    numbers = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    numbers = [number for number in numbers if _is_open(number, connection)]
    request = {
        "words": command,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "numbers": numbers,
        "is_unbuffered": is_unbuffered,
    }
    # Longer than a packet may be where the environment is large.
    Path(place := f"{address}-{os.getpid()}").write_text(json.dumps(request))
    socket.send_fds(connection, [place.encode()], numbers)
    pid = json.loads(connection.recv(1 << 16))["pid"]
    for name in _PASSED_ON:
        number = getattr(signal, name)
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(pid, number))
    for number in numbers:
        os.close(number)
    status = json.loads(connection.recv(1 << 16) or '{"status": 1}')["status"]
    if status < 0:
        # SIGKILL has no handler to take away.
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _command(words: list[str]) -> tuple[list[str], bool]:
    """Return the words from ``-m`` or ``-c`` on, none where a new Python is to run them."""
    is_unbuffered = False
    while words:
        if words[0] == "-m" or (words[0] == "-c" and _is_forked(words[1])):
            return words, is_unbuffered
        # Also in one word with its value, as multiprocessing writes them: -Wignore.
        if words[0][:2] not in {"-u", "-B", "-W", "-X"}:
            break
        is_unbuffered = is_unbuffered or words[0] == "-u"
        del words[: 2 if words[0] in {"-W", "-X"} else 1]
    return [], is_unbuffered


def _is_forked(code: str) -> bool:
    modules = ("mdel_assets.cli.main", "multiprocessing.spawn", "multiprocessing.forkserver")
    return any(module in code for module in modules)


def _is_open(number: int, connection: socket.socket) -> bool:
    # The folder that was listed is closed by now.
    return number != connection.fileno() and Path(f"/proc/self/fd/{number}").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
