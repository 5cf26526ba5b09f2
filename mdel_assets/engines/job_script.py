"""The script of a job: it checks the storage, prepares the environment, and starts the worker.

It is part of the submission and not in the shared folder, so that it can report a missing folder.
"""

import base64
import shlex
from collections.abc import Sequence

from mdel_assets.engines.jobs import Work

# The script's exit status if the folder is not shared; EX_IOERR in sysexits.h.
UNSHARED = 74
# Names the second since the epoch at which a training is to save a checkpoint and end.
DEADLINE = "MDEL_DEADLINE"
# A folder of the job's machine that takes the place of MDEL_HOME, where that is not shared.
JOB_HOME = "MDEL_JOB_HOME"
# The name under which such a job leaves in the store how it ended.
RETURN = "MDEL_JOB_RETURN"
_SHARED_CHECK = (
    '[ "$(cat "$folder/asked" 2>/dev/null)" = "$token" ] &&',
    '  echo "$token $HOSTNAME" 2>/dev/null > "$folder/answered.new" &&',
    f'  mv "$folder/answered.new" "$folder/answered" || exit {UNSHARED}',
)


def job_script(
    works: Sequence[Work],
    *,
    command: Sequence[str],
    before: Sequence[str] = (),
    after_check: Sequence[str] = (),
    training_seconds: float | None = None,
    shares_folder: bool = True,
) -> str:
    """Return a bash script that runs the only one of ``works``, or that of SLURM's array index.

    ``command`` starts a worker; the specification's path is its argument. ``after_check`` are lines
    to run after the storage check, ``before`` lines that prepare the environment. Without
    ``shares_folder`` the script holds the specifications, and works in a folder of its machine.
    """
    lines = ["#!/bin/bash"]
    settings = [_settings(work, shares_folder=shares_folder) for work in works]
    if len(works) == 1:
        # Whatever started it may itself be a job of an array, whose index it inherits.
        lines += settings
    else:
        cases = [f"{index}) {setting} ;;" for index, setting in enumerate(settings)]
        lines += ['case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac"]
    # The time limit counts from here, including everything before the worker.
    if training_seconds is not None:
        lines.append(f"export {DEADLINE}=$(( $(date +%s) + {round(training_seconds)} ))")
    if not shares_folder:
        lines += [
            'folder="$(mktemp -d)" || exit 1',
            'printf %s "$spec" | base64 -d > "$folder/spec.json" || exit 1',
            f'export {RETURN}="$token"',
        ]
    lines += [
        *(_SHARED_CHECK if shares_folder else ()),
        'exec >> "$folder/output.log" 2>&1',
        *after_check,
        *before,
        *([] if shares_folder else [f'export {JOB_HOME}="${{{JOB_HOME}:-$folder/home}}"']),
    ]
    return "\n".join([*lines, f'exec {shlex.join(command)} "$folder/spec.json"', ""])


def _settings(work: Work, *, shares_folder: bool) -> str:
    exports = [f"export {key}={shlex.quote(text)}" for key, text in work.environment.items()]
    settings = [
        f"folder={shlex.quote(str(work.folder.path))}",
        f"name={shlex.quote(work.name)}",
        f"token={work.token}",
        *(exports if shares_folder else [f"spec={_encoded(work)}"]),
    ]
    return "; ".join(settings)


def _encoded(work: Work) -> str:
    return base64.b64encode(work.folder.spec.read_bytes()).decode()
