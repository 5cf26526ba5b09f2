"""How a job ended, told through the object store: for jobs without a shared folder.

The worker leaves its outcome and its output there, under the name that its script was given.
Whoever waits for the job collects both into its job folder.
"""

import shutil
from pathlib import Path

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.engines.worker_spec import WorkerSpec, outcome_path
from mdel_assets.errors import WorkerError
from mdel_assets.store.durable_files import write_text_atomically
from mdel_assets.store.remote.client import Client

_OUTCOME, _OUTPUT = "outcome.json", "output.log"
# The end of a job's output says why it failed.
_MOST_OUTPUT_BYTES = 1 << 20


def give_back(spec: Path, *, name: str) -> None:
    """Leave in the store how the worker of a specification ended, and remove the job's folder."""
    folder = JobFolder(spec.parent)
    address = WorkerSpec.model_validate_json(spec.read_text("utf-8")).store
    assert address
    client = Client(address)
    output = folder.output.read_bytes()[-_MOST_OUTPUT_BYTES:] if folder.output.exists() else b""
    client.create(_name(name, _OUTPUT), output)
    # The last, as with artifacts: whoever sees it finds the rest.
    client.create(_name(name, _OUTCOME), outcome_path(spec).read_bytes())
    shutil.rmtree(spec.parent, ignore_errors=True)


def collect(folder: JobFolder, spec: WorkerSpec, *, name: str) -> None:
    """Write what the job ``name`` left in the store into its folder here, and remove it there."""
    client = Client(require_store(spec))
    outcome = client.read(_name(name, _OUTCOME))
    if outcome is None:
        return
    output = client.read(_name(name, _OUTPUT)) or b""
    folder.output.write_bytes(output)
    write_text_atomically(outcome_path(folder.spec), outcome.decode())
    client.delete([_name(name, _OUTCOME), _name(name, _OUTPUT)])


def require_store(spec: WorkerSpec) -> str:
    """Return the address of the store of a job that shares no folder.

    Raises:
        WorkerError: it has none.

    """
    if spec.store is None:
        raise WorkerError(
            "Jobs with shares_folder: false exchange artifacts through an object store, and "
            "MDEL_STORE is not set. Set it to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX, or let the jobs share MDEL_HOME."
        )
    if spec.part:
        raise WorkerError(
            f"Parts of the work on {spec.kind} are put together in a shared folder, and the jobs "
            f"have shares_folder: false. Leave out compute.kinds.{spec.kind}.parts."
        )
    return spec.store


def _name(job: str, file: str) -> str:
    return f"jobs/{job}/{file}"
