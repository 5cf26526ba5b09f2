"""Weights & Biases: what is tracked, and where to.

Offline needs no key and no network: runs lie in MDEL_HOME/wandb, for ``wandb sync``. With a key
they go online. Tracking is never what a run dies of: what cannot be reached in time is left out,
with a warning.
"""

import contextlib
import dataclasses
import logging
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 15.0
_HOST = "api.wandb.ai"
Mode = Literal["online", "offline", "disabled"]


@dataclasses.dataclass(frozen=True)
class Tracker:
    """Opens runs of one project; ``group`` is the experiment; runs lie in ``folder/wandb``."""

    project: str | None
    entity: str | None
    group: str
    folder: Path
    mode: Mode

    @contextlib.contextmanager
    def run(
        self,
        name: str,
        *,
        run_id: str,
        job_type: str,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> Iterator[Any | None]:
        """Give a W&B run to log to, or None where nothing is tracked or the server fails.

        A run of the same ``run_id`` goes on where it ended.
        """
        opened = None
        if self.project and self.mode != "disabled":
            opened = self._open(name, run_id, job_type, tags, config or {})
            if opened is None and self.mode == "offline":
                # No server is asked: what failed is W&B's own process, and it may start yet.
                opened = self._open(name, run_id, job_type, tags, config or {})
        try:
            yield opened
        finally:
            if opened is not None:
                with going_on_without("finish the run"):
                    opened.finish()

    def _open(
        self, name: str, run_id: str, job_type: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> Any | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(variable, str(self.folder / "wandb" / "cache"))
        import wandb

        settings = wandb.Settings(
            init_timeout=_TIMEOUT_SECONDS,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
        )
        with going_on_without(f"track '{name}'"):
            return wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group,
                name=name,
                id=run_id,
                resume="allow" if self.mode == "online" else None,
                job_type=job_type,
                tags=list(tags),
                config=dict(config),
                dir=str(self.folder),
                mode=self.mode,
                settings=settings,
            )
        return None


@contextlib.contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Make a warning of whatever W&B raises: neither a server nor its own process stops a run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the library documents none of its errors)
        _log.warning("W&B could not %s: %s: %s", what, type(error).__name__, error)


def log_model(
    run: Any, name: str, *, folder: Path, fingerprint: str, inputs: Mapping[str, str]
) -> None:
    """Tell a run which model it made: where it lies and what it is, without a copy of it."""
    import wandb

    metadata = {"fingerprint": fingerprint, "inputs": dict(inputs)}
    with going_on_without(f"note where {name} lies"):
        made = wandb.Artifact(name, type="model", metadata=metadata)
        made.add_reference(folder.resolve().as_uri(), checksum=False)
        run.log_artifact(made)


def tracking_mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """Return ``WANDB_MODE`` where that is set, else online with a key and offline without one."""
    chosen = environment.get("WANDB_MODE")
    if chosen in ("online", "offline", "disabled"):
        return chosen  # type: ignore[return-value]
    return "online" if environment.get("WANDB_API_KEY") or _is_logged_in() else "offline"


def _is_logged_in() -> bool:
    try:
        return netrc.netrc().authenticators(_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
