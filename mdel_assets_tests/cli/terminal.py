"""A terminal for tests: a process on a pseudo-terminal, and what is left on its screen."""

import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

_STEP = re.compile(r"\x1b\[(?P<numbers>[\d;]*)(?P<order>[A-Za-z])|(?P<text>.)", re.DOTALL)


class Terminal:
    """Runs a command on a terminal of its own; ``seen`` is all that the command wrote to it."""

    def __init__(
        self, words: Sequence[str], *, env: Mapping[str, str], rows: int = 30, columns: int = 100
    ) -> None:
        self._own, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._settings_before = termios.tcgetattr(self._own)
        self._process = subprocess.Popen(
            words,
            env={**env, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # Else Ctrl-C were a character like any other.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._bytes = b""

    @property
    def seen(self) -> str:
        return self._bytes.decode("utf-8", errors="replace")

    def read_until(self, words: str) -> None:
        """Read until ``words`` were written."""
        while words not in self.seen:
            assert self._read(), self.seen[-3000:]

    def press(self, keys: bytes) -> None:
        """Type ``keys``."""
        os.write(self._own, keys)

    def end(self) -> int:
        """Read to the end and return the exit status; the terminal's settings must be as before."""
        while self._read():
            pass
        status = self._process.wait()
        assert termios.tcgetattr(self._own) == self._settings_before
        os.close(self._own)
        return status

    def _read(self) -> bool:
        try:
            found = os.read(self._own, 1 << 16)
        except OSError:
            # How Linux tells that nobody writes to it any more.
            return False
        self._bytes += found
        return bool(found)

    def screen(self) -> list[str]:
        """Return the lines that are on the screen, and above it; unknown orders are an error."""
        lines: list[str] = [""]
        row = column = 0
        for step in _STEP.finditer(self.seen):
            order, numbers, text = step["order"], step["numbers"], step["text"]
            if order == "A":
                row -= int(numbers)
                assert row >= 0
            elif order == "K":
                assert numbers == "2"
                lines[row] = ""
            elif text == "\r":
                column = 0
            elif text == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif text:
                assert text.isprintable(), repr(text)
                lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + 1 :]
                column += 1
            else:
                assert order == "m", step[0]
        return [line.rstrip() for line in lines]
