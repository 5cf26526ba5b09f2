"""Terminal output: the package's log as indented lines, and what goes to which stream."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
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
