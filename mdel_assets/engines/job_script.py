"""The script that a job runs: it checks the storage, prepares its environment, starts the worker.

It travels with the submission, not through the shared folder, so that it can tell that there is no
such folder.
"""

import shlex
from collections.abc import Sequence

from mdel_assets.engines.jobs import Work

# What the script ends with where the folder is not shared; sysexits.h calls it EX_IOERR.
UNSHARED = 74
# Names the second since the epoch at which a training is to save a checkpoint and end.
DEADLINE = "MDEL_DEADLINE"


def job_script(
    works: Sequence[Work],
    *,
    command: Sequence[str],
    before: Sequence[str] = (),
    after_check: Sequence[str] = (),
    training_seconds: float | None = None,
) -> str:
    """Return a bash script that runs one of ``works``: the one of SLURM's array index, or the only.

    ``command`` starts a worker and is given the specification's path. ``after_check`` are lines for
    when the storage is known to be shared, ``before`` those that make the environment ready.
    """
    lines = ["#!/bin/bash", 'case "${SLURM_ARRAY_TASK_ID:-0}" in']
    for index, work in enumerate(works):
        exports = [f"export {key}={shlex.quote(text)}" for key, text in work.environment.items()]
        settings = [
            f"folder={shlex.quote(str(work.folder.path))}",
            f"name={shlex.quote(work.name)}",
            f"token={work.token}",
            *exports,
        ]
        lines += [f"{index}) {'; '.join(settings)} ;;"]
    lines += [
        "esac",
        '[ "$(cat "$folder/asked" 2>/dev/null)" = "$token" ] &&',
        '  echo "$token $(hostname)" 2>/dev/null > "$folder/answered.new" &&',
        f'  mv "$folder/answered.new" "$folder/answered" || exit {UNSHARED}',
        'exec >> "$folder/output.log" 2>&1',
        *after_check,
        *before,
    ]
    if training_seconds is not None:
        lines.append(f"export {DEADLINE}=$(( $(date +%s) + {round(training_seconds)} ))")
    return "\n".join([*lines, f'exec {shlex.join(command)} "$folder/spec.json"', ""])
