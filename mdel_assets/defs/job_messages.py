"""Messages of cluster jobs, forwarded to the event log of the run that waits for them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pipes import PipesParams

from mdel_assets.engines.job_folder import JobFolder, Tail


class JobMessages:
    """A Pipes session for each job of a run, over a file in the shared folder.

    Other output of a job is forwarded as well. With several jobs, each line names its job.
    """

    def __init__(self, context: dg.AssetExecutionContext, *, are_named: bool) -> None:
        self.context = context
        self.are_named = are_named
        self._open: dict[str, tuple[contextlib.ExitStack, _SharedFile, Tail]] = {}

    def open(self, key: str, folder: JobFolder) -> Mapping[str, str]:
        """Begin a session; return the environment variables with which a worker joins it."""
        reader = _SharedFile(folder.messages, prefix=self._prefix(key))
        stack = contextlib.ExitStack()
        session = stack.enter_context(
            dg.open_pipes_session(
                context=self.context.op_execution_context,
                context_injector=dg.PipesEnvContextInjector(),
                message_reader=reader,
            )
        )
        self._open[key] = stack, reader, Tail(folder.output)
        return session.get_bootstrap_env_vars()

    def pass_on(self, key: str) -> None:
        """Forward what was written since the last call."""
        if key in self._open:
            _, reader, output = self._open[key]
            reader.pass_on()
            for line in output.new_lines():
                if shown := line.rsplit("\r", 1)[-1].strip():
                    self.context.log.info("%s%s", self._prefix(key), shown)

    def close(self, key: str) -> None:
        """Forward the rest and end the session."""
        self.pass_on(key)
        if key in self._open:
            self._open.pop(key)[0].close()

    def _prefix(self, key: str) -> str:
        return f"{key}: " if self.are_named else ""


class _SharedFile(dg.PipesMessageReader):
    """Reads messages from a file that a process on another machine writes.

    Unlike Dagster's own reader it reopens the file each time, which network file systems need, and
    keeps its content, so that a session can continue with a worker that is already running.
    """

    def __init__(self, path: Path, *, prefix: str) -> None:
        self.tail = Tail(path)
        self.prefix = prefix
        self.handler: Any = None

    @contextlib.contextmanager
    def read_messages(self, handler: Any) -> Iterator[PipesParams]:
        """Let messages be handled whenever `pass_on` is called, and at the end."""
        self.handler = handler
        yield {"path": str(self.tail.path), "include_stdio_in_messages": False}
        self.pass_on()

    def pass_on(self) -> None:
        """Handle new messages."""
        for line in self.tail.new_lines():
            message = json.loads(line)
            if message["method"] == "log":
                message["params"]["message"] = self.prefix + message["params"]["message"]
            self.handler.handle_message(message)

    def no_messages_debug_text(self) -> str:
        """Say where messages were looked for."""
        return f"Attempted to read messages from {self.tail.path}."
