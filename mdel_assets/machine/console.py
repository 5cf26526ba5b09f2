"""Terminal output: the package's log as indented lines, and what goes to which stream."""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

# What they say of each artifact, that it is made or needs no making, commands say themselves.
_SAID_ELSEWHERE = ("mdel_assets.store.artifacts", "mdel_assets.line.making")


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return record.name not in _SAID_ELSEWHERE or record.levelno > logging.INFO


class _Lines(logging.Formatter):
    """One indented line per message, without Dagster's prefix of job, run and step."""

    _origin = re.compile(r"^\S+ - [0-9a-f-]{36} - \S+ - ")

    def format(self, record: logging.LogRecord) -> str:
        text = self._origin.sub("", super().format(record))
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"      {level}{text}"


def show_log_lines() -> None:
    """Send log messages to the terminal's error stream."""
    console = logging.StreamHandler()
    console.setFormatter(_Lines())
    console.addFilter(_is_worth_a_line)
    logging.basicConfig(level=logging.WARNING, handlers=[console])


@contextlib.contextmanager
def showing_progress() -> Iterator[None]:
    """Show the package's progress lines, too."""
    logger = logging.getLogger("mdel_assets")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def alone_on_standard_output() -> Iterator[TextIO]:
    """Yield standard output as a file; what else is written there goes to standard error.

    This holds for libraries, steps and child processes, too: they write to the descriptor.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as ours:
        os.dup2(2, 1)
        try:
            yield ours
        finally:
            sys.stdout.flush()
            ours.flush()
            os.dup2(ours.fileno(), 1)


@contextlib.contextmanager
def diverting_lines(descriptors: Sequence[int], show: Callable[[str], None]) -> Iterator[None]:
    """Call ``show`` with each line that this process and its children write to ``descriptors``.

    ``show`` is called in another thread. Some children outlive the block, such as the helpers of
    multiprocessing: what they write later goes to the first of the descriptors.
    """
    reading, writing = os.pipe()
    kept = {descriptor: os.dup(descriptor) for descriptor in descriptors}
    diverted = _Diverted(reading, show, after=os.dup(descriptors[0]))
    _flush()
    for descriptor in descriptors:
        os.dup2(writing, descriptor)
    try:
        yield
    finally:
        _flush()
        for descriptor, original in kept.items():
            os.dup2(original, descriptor)
            os.close(original)
        with contextlib.suppress(BrokenPipeError):
            os.write(writing, _END)
        os.close(writing)
        diverted.is_over.wait()


@contextlib.contextmanager
def standard_streams_restored() -> Iterator[None]:
    """Let both streams lead afterwards to where they lead now, whatever the block did to them.

    Dagster lets them lead to files while a step runs, and leaves it so where the last lines find no
    room on the disk: an error would be told to nobody.
    """
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        yield
    finally:
        for descriptor, original in kept.items():
            os.dup2(original, descriptor)
            os.close(original)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


# No text has it: it is no UTF-8.
_END = b"\xff\xfe\xff"
_CHUNK_BYTES = 1 << 16


class _Diverted:
    """Reads lines up to `_END` and shows them; what comes later is passed on as it is."""

    def __init__(self, reading: int, show: Callable[[str], None], *, after: int) -> None:
        self.is_over = threading.Event()
        self._show = show
        threading.Thread(target=self._read, args=(reading, after), daemon=True).start()

    def _read(self, reading: int, after: int) -> None:
        try:
            rest = self._show_lines(reading)
            self.is_over.set()
            os.write(after, rest)
            while rest := os.read(reading, _CHUNK_BYTES):
                os.write(after, rest)
        finally:
            # Without a reader, who writes is told, and does not wait.
            os.close(reading)
            os.close(after)
            self.is_over.set()

    def _show_lines(self, reading: int) -> bytes:
        """Show all lines before `_END`; return what was read behind it."""
        held, end, behind = b"", b"", b""
        while not end:
            held, end, behind = (held + os.read(reading, _CHUNK_BYTES)).partition(_END)
            *lines, held = held.split(b"\n")
            for line in [*lines, *([held] if end and held else [])]:
                self._show(line.decode("utf-8", errors="replace").rstrip("\r"))
        return behind
