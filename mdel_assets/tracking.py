"""Weights & Biases tracking.

Offline mode needs no key and no network: runs are stored in MDEL_HOME/wandb, for ``wandb sync``.
With a key they go online. Tracking never makes a run fail: if the server does not answer in time,
tracking is skipped with a warning.
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
    """Opens runs of one project; ``group`` is the experiment; runs are in ``folder/wandb``."""

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
        """Yield a W&B run to log to; None if tracking is off or the server fails.

        A run with the same ``run_id`` continues where it ended.
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
    """Turn any W&B error into a warning, so that it does not stop the run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the library documents none of its errors)
        _log.warning("W&B could not %s: %s: %s", what, type(error).__name__, error)


def log_model(
    run: Any, name: str, *, folder: Path, fingerprint: str, inputs: Mapping[str, str]
) -> None:
    """Log a reference to the model that a run made: its folder and metadata, without a copy."""
    import wandb

    metadata = {"fingerprint": fingerprint, "inputs": dict(inputs)}
    with going_on_without(f"note the location of {name}"):
        made = wandb.Artifact(name, type="model", metadata=metadata)
        made.add_reference(folder.resolve().as_uri(), checksum=False)
        run.log_artifact(made)


def tracking_mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """Return ``WANDB_MODE`` if it is set, else online with a key and offline without one."""
    chosen = environment.get("WANDB_MODE")
    if chosen in ("online", "offline", "disabled"):
        return chosen  # type: ignore[return-value]
    return "online" if environment.get("WANDB_API_KEY") or _is_logged_in() else "offline"


def _is_logged_in() -> bool:
    try:
        return netrc.netrc().authenticators(_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
