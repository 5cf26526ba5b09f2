"""What is said of a task that cannot be loaded or run: the cause, and a remedy for that cause."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.tasks.own_tasks import OwnTask

_DATA_PACKAGES = ("datasets", "huggingface_hub")
# Also of a processor's memory, and of the harness's search for a size of batches.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "no executable batch size found")
_OR_TAKE_OUT = "or take the task out of evaluation.tasks."


def why_not_loaded(name: str, error: Exception, own: OwnTask | None, dataset: str) -> str:
    """Return why a task, one of the experiment's ``own`` or the harness's, cannot be loaded."""
    told = _one_line(error)
    missing = next((each for each in _chain(error) if isinstance(each, ImportError)), None)
    if missing is not None:
        return f"The task '{name}' cannot be loaded: {told} {_import_remedy(missing, own)}"
    if not _is_of_data(error):
        remedy = f"Correct {own.path} or what it names, " if own else "Correct its settings, "
        return f"The task '{name}' cannot be loaded: {told} {remedy}{_OR_TAKE_OUT}"
    cannot = f"The dataset of the task '{name}', {dataset}, cannot be had: {told}"
    if own and own.files():
        return (
            f"{cannot} Correct the file, or `dataset_kwargs` in {own.path}; relative paths start "
            f"at that file's folder."
        )
    return (
        f"{cannot} Run once with a network, so that the cache of `datasets` holds it; log in with "
        f"`hf auth login` if it is gated; {_OR_TAKE_OUT}"
    )


def why_not_run(name: str, folder: Path, error: Exception) -> str:
    """Return why a task that was loaded failed on the model in ``folder``."""
    told = _one_line(error)
    if any(_is_out_of_memory(each) for each in _chain(error)):
        return (
            f"The task '{name}' ran out of memory on {folder}: {told} End what else uses this "
            f"machine's memory, run it on one with more, lower evaluation.num_fewshot if it is "
            f"set, {_OR_TAKE_OUT}"
        )
    return f"The task '{name}' failed on {folder}: {told} Correct the task, {_OR_TAKE_OUT}"


def _import_remedy(error: ImportError, own: OwnTask | None) -> str:
    package = (error.name or "").partition(".")[0]
    if not package.isidentifier():
        return f"Install what it asks for with pip, {_OR_TAKE_OUT}"
    if not isinstance(error, ModuleNotFoundError):
        return f"Install a version of the package '{package}' that has it, {_OR_TAKE_OUT}"
    of_own = f" (if it is a file of yours, put it into {own.path.parent})" if own else ""
    return (
        f"Install the package '{package}', for example with `pip install {package}`{of_own}, "
        f"{_OR_TAKE_OUT}"
    )


def _is_of_data(error: BaseException) -> bool:
    """Whether reading or downloading data failed, rather than a task's definition or its code."""
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _DATA_PACKAGES:
        return True
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in _DATA_PACKAGES:
            # A split or a column that is not there: the data itself was read.
            return not isinstance(error, LookupError)
        # The harness names the modules of own tasks by their paths.
        if package == "lm_eval" or "/" in package:
            return False
    return False


def _is_out_of_memory(error: BaseException) -> bool:
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(words in told for words in _OUT_OF_MEMORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the innermost cause first; the last is the error itself."""
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)
    yield error


def _one_line(error: BaseException) -> str:
    """Return an error's text as one sentence, with that of what caused it."""
    cause = error.__cause__ or error.__context__
    told = " ".join(str(error).split()) or type(error).__name__
    if cause is not None and (more := " ".join(str(cause).split())) and more not in told:
        told += f": {more}"
    return told[:400].rstrip(". ") + "."
