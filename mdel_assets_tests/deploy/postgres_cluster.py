"""A PostgreSQL cluster of Debian's package, made as the official image makes one."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PACKAGED = Path("/usr/lib/postgresql")
# PostgreSQL refuses to run as root.
_USER = "nobody"


def find_programs() -> Path | None:
    """Return the folder with `initdb` and `postgres`, the newest that there is; else None."""
    packaged = sorted(_PACKAGED.glob("*/bin/initdb"), key=lambda path: int(path.parents[1].name))
    if packaged:
        return packaged[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def as_other_user(command: Sequence[str]) -> list[str]:
    """Return ``command`` as root starts it: as another user; as anyone else, unchanged."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", f"--reuid={_USER}", "--regid=nogroup", "--clear-groups", "--", *command]


def give_to_other_user(path: Path) -> None:
    """Make that user the owner of ``path``, where root runs this."""
    if os.geteuid() == 0:
        shutil.chown(path, _USER, "nogroup")


def create_cluster(data: Path, *, programs: Path, user: str, password: str, database: str) -> None:
    """Make a cluster with one user, whom it always asks for the password, and one database."""
    data.chmod(0o700)
    give_to_other_user(data)
    secret = data.with_name("password")
    secret.touch(mode=0o600)
    secret.write_text(password + "\n")
    give_to_other_user(secret)
    ask_for_password = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={user}"]
    options = ["--encoding=UTF8", "--locale=C", "--no-sync"]
    _run([str(programs / "initdb"), f"--pgdata={data}", *ask_for_password, *options])
    secret.unlink()
    single = [str(programs / "postgres"), "--single", "-D", str(data), "postgres"]
    _run(single, f'CREATE DATABASE "{database}";\n')


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(
        as_other_user(command),
        input=text,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
