"""A disk that is full before Dagster's own databases are written: a sentence, and nothing lost."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy

from mdel_assets.defs.instance import open_instance
from mdel_assets.errors import DiskFullError
from mdel_assets.home import MdelHome
from mdel_assets.store.durable_files import (
    explaining_full_disk,
    is_full_disk,
    link_or_copy,
    require_room,
)
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.running_dagster import environment

pytestmark = pytest.mark.in_use

# Runs `mdel run` with home $2 on a disk $1 of 40 MiB that has $3 KiB left; makes room, and runs it
# again; tells what is wrong with Dagster's databases.
SCRIPT = """
RUN="from mdel_assets.cli.main import main; main()"
run() { "$0" -c "$RUN" run --until raw_pile_shard --workers 1; }
mount -t tmpfs -o size=40m none "$1"
cp -a "$2" "$1/home"
free=$(df --output=avail -k "$1" | tail -1)
head -c "$((free - $3))k" /dev/zero > "$1/filler"
run; echo "the first ended with $?"
rm "$1/filler"
run; echo "the second ended with $?"
find "$1/home" -name "*.db" | while read -r path; do
    echo "database: $("$0" -c "$4" "$path")"
done
"""
CHECK = """
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("PRAGMA integrity_check").fetchone())
"""


def full_database(path):
    """Return what SQLite raises where its file may not grow."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (text)")
        database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as raised:
            database.execute("INSERT INTO runs VALUES (?)", ["x" * 100_000])
    return raised.value


def test_a_full_database_is_told_in_one_sentence(tmp_path):
    error = full_database(tmp_path / "runs.db")
    wrapped = sqlalchemy.exc.OperationalError("INSERT INTO runs", {}, error)
    for each in (error, wrapped):
        with (
            pytest.raises(DiskFullError, match="No room to write the history under") as raised,
            explaining_full_disk("the history", tmp_path / "not made yet"),
        ):
            raise each
        assert str(tmp_path / "not made yet") in str(raised.value)
        assert "run the same command again" in str(raised.value)
    assert not is_full_disk(sqlite3.OperationalError("no such table: runs"))


LIMITED = """
import resource, sqlite3, sys
from pathlib import Path
from mdel_assets.store.durable_files import explaining_full_disk
from mdel_assets.errors import DiskError
folder = Path(sys.argv[1])
database = sqlite3.connect(folder / "runs.db")
database.execute("CREATE TABLE runs (text)")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with explaining_full_disk("the history", folder), database:
        database.execute("INSERT INTO runs VALUES (?)", ["x" * 1_000_000])
except DiskError as error:
    print(error)
"""


def test_a_database_that_fails_though_there_is_room_is_not_told_as_a_full_disk(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True)
    assert f"A database under {tmp_path} could not be read or written" in done.stdout
    assert "MiB are free. Look for a quota, a file size limit" in done.stdout


@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_cannot_be_put_in_its_place_leaves_nothing_beside(tmp_path, is_there):
    source, target = tmp_path / "source", tmp_path / "target"
    if is_there:
        source.write_text("weights")
    (target / "full").mkdir(parents=True)
    with pytest.raises(OSError):  # noqa: PT011  which one, the system decides
        link_or_copy(source, target)
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "target"}


def test_a_run_is_not_begun_without_room_for_its_history(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_room("a run", tmp_path, wanted_bytes=free // 2)
    with pytest.raises(DiskFullError, match=f"No room to write a run under {tmp_path}"):
        require_room("a run", tmp_path / "home", wanted_bytes=4 * free)


@pytest.fixture
def disk(tmp_path):
    """A folder where a child process can mount a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(folder)]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("this process may not mount a disk")
    return folder


SMALL_DISK = """
mount -t tmpfs -o size=8m none "$1"
"$0" -c "from mdel_assets.cli.main import main; main()" dg launch --assets seed_model
"""


@pytest.mark.slow
def test_dagsters_own_commands_begin_no_run_without_room_either(corpus, home, disk, tmp_path):
    variables = environment(pico_experiment(corpus), home, tmp_path)
    variables["MDEL_HOME"] = str(disk / "home")
    del variables["DAGSTER_HOME"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SMALL_DISK, sys.executable, disk],
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 1
    assert f"No room to write Dagster's history of the run under {disk}/home/pico" in done.stdout
    assert "Traceback" not in done.stdout


# Runs one of Dagster's commands with home $2 on a disk $1 of 40 MiB, which something else fills
# once the run has begun; makes room, and runs it again; tells what is wrong with the databases.
FILLED_MEANWHILE = """
mount -t tmpfs -o size=40m none "$1"
cp -a "$2" "$1/home"
disk=$1 filling=$3 awaited=$4 examining=$5
shift 5
"$0" -c "$filling" "$disk/filler" "$awaited" "$@"; echo "the first ended with $?"
rm "$disk/filler"
"$0" -c "from mdel_assets.cli.main import main; main()" "$@"; echo "the second ended with $?"
find "$disk/home" -name "*.db" | while read -r path; do
    echo "database: $("$0" -c "$examining" "$path")"
done
"""
# Fills the disk as soon as a file whose path matches $1 is opened.
FILLING = """
import contextlib, re, sys
from pathlib import Path
from mdel_assets.cli.main import main
filler, awaited = Path(sys.argv.pop(1)), re.compile(sys.argv.pop(1))

def fill(event, arguments):
    if event not in ("open", "sqlite3.connect") or filler.exists():
        return
    if awaited.search(str(arguments[0])):
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

sys.addaudithook(fill)
main()
"""


LAUNCH = ("dg", "launch", "--assets", "raw_pile_shard", "--partition", "val")
MATERIALIZE = (
    "dagster",
    "asset",
    "materialize",
    "--select",
    "raw_pile_shard",
    "--partition",
    "val",
)
# Of the run that Dagster has begun, and of the artifact that its step makes.
DATABASE_OF_RUN, LOCK_OF_ARTIFACT = r"/runs/[0-9a-f-]{36}[.]db$", r"/locks/raw_pile_shard-val$"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "opened"), [(LAUNCH, LOCK_OF_ARTIFACT), (MATERIALIZE, DATABASE_OF_RUN)]
)
def test_a_disk_that_fills_during_a_run_of_dagsters_own_is_told_in_one_sentence(
    corpus, home, disk, tmp_path, words, opened
):
    experiment = pico_experiment(corpus)
    open_instance(home, experiment.name).dispose()
    variables = environment(experiment, home, tmp_path)
    variables["MDEL_HOME"] = str(disk / "home")
    del variables["DAGSTER_HOME"]
    # Lines that wait in a buffer find the disk full only at the end.
    variables.pop("PYTHONUNBUFFERED", None)
    arguments = [sys.executable, disk, home.root, FILLING, opened, CHECK, *words]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", FILLED_MEANWHILE, *arguments],
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    first, _, second = done.stdout.partition("the first ended with 1")
    moved = MdelHome(disk / "home").dagster_home(experiment.name)
    (refusal,) = (line for line in first.splitlines() if line.startswith("Error: "))
    assert f"Dagster's history of the run (some 16 MiB) under {moved} (0 MiB free" in refusal
    assert "Traceback" not in first
    assert "the second ended with 0" in second
    databases = [line for line in second.splitlines() if line.startswith("database: ")]
    assert len(databases) > 4
    assert set(databases) == {"database: ok"}


@pytest.mark.slow
@pytest.mark.parametrize("free_kib", [16, 512])
def test_the_line_goes_on_once_there_is_room(corpus, home, disk, tmp_path, free_kib):
    """16 KiB are too few for SQLite's locks, 512 for the history of four runs."""
    experiment = pico_experiment(corpus)
    open_instance(home, experiment.name).dispose()
    variables = environment(experiment, home, tmp_path)
    variables["MDEL_HOME"] = str(disk / "home")
    del variables["DAGSTER_HOME"]
    arguments = [sys.executable, disk, home.root, str(free_kib), CHECK]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT, *arguments],
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    first, _, second = done.stdout.partition("the first ended with 1")
    assert "Traceback" not in done.stdout
    assert "Exception while writing" not in done.stdout
    (refusal,) = (line for line in first.splitlines() if line.startswith("Error: "))
    moved = MdelHome(disk / "home").dagster_home(experiment.name)
    assert f"under {moved}" in refusal
    assert "16 MiB" in refusal
    assert "4 runs in" in second
    assert "the second ended with 0" in second
    databases = [line for line in second.splitlines() if line.startswith("database: ")]
    assert len(databases) > 4
    assert set(databases) == {"database: ok"}
