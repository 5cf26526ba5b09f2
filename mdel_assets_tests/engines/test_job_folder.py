"""The folder that both sides of a job share, and the script that looks at it first."""

import socket
import subprocess
import time

from mdel_assets.engines.job_folder import JobFolder, Note, Tail
from mdel_assets.engines.job_script import UNSHARED, job_script
from mdel_assets.engines.jobs import Work
from mdel_assets.engines.worker_spec import WorkerSpec

SPEC = WorkerSpec(
    experiment={},
    home="/home",
    kind="expert_model",
    keys=["arxiv"],
    tracking_folder="/home",
    tracking_mode="disabled",
)
NOTE = Note("slurm", "0123", 1)


def run(folders, *, index, **options):
    works = [
        Work(f"pico/{folder.path.name}", folder, f"0123-{index}", {"SAID": "it's"})
        for index, folder in enumerate(folders)
    ]
    script = job_script(works, command=["echo", "$SAID"], **options)
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(index)}
    return subprocess.run(["bash"], input=script, text=True, env=environment, check=False)


def test_a_job_answers_in_its_own_folder_before_it_does_anything_else(tmp_path):
    folders = [JobFolder(tmp_path / "a b"), JobFolder(tmp_path / "c")]
    folders[1].prepare(SPEC, NOTE)
    assert folders[1].answer(NOTE) is None
    started = time.time()
    done = run(folders, index=1, before=["echo $SAID $MDEL_DEADLINE"], training_seconds=60)
    assert done.returncode == 0
    assert folders[1].answer(NOTE) == socket.gethostname()
    # An answer to an earlier submission is none.
    assert folders[1].answer(Note("slurm", "4567", 1)) is None
    prepared, worked = folders[1].output.read_text().splitlines()
    said, deadline = prepared.split()
    assert said == "it's"
    assert started + 59 <= int(deadline) <= time.time() + 60
    assert worked == f"$SAID {folders[1].spec}"


def test_a_single_job_has_its_folder_whatever_array_its_cluster_was_started_in(tmp_path):
    folder = JobFolder(tmp_path / "a")
    note = Note("ray", "0123", 0)
    folder.prepare(SPEC, note)
    assert run([folder], index=3).returncode == 0
    assert folder.answer(note) == socket.gethostname()


def test_a_job_that_does_not_see_the_folder_ends_at_once(tmp_path):
    folder = JobFolder(tmp_path / "a")
    assert run([folder], index=0).returncode == UNSHARED
    folder.prepare(SPEC, NOTE)
    folder.asked.write_text("another")
    assert run([folder], index=0).returncode == UNSHARED
    assert not folder.output.exists()


def test_a_note_outlives_its_writer_and_nothing_else_of_an_earlier_job_does(tmp_path):
    folder = JobFolder(tmp_path / "a")
    assert folder.note() is None
    folder.prepare(SPEC, NOTE)
    assert folder.note() == NOTE
    assert folder.has_spec(SPEC)
    assert not folder.has_spec(SPEC.model_copy(update={"keys": ("github",)}))
    moved = SPEC.experiment | {"folder": "/elsewhere"}
    assert folder.has_spec(SPEC.model_copy(update={"experiment": moved}))
    folder.spec.write_text("{")
    assert not folder.has_spec(SPEC)
    for path in (folder.messages, folder.output, folder.answered):
        path.write_text("old")
    folder.prepare(SPEC, Note("slurm", "4567"))
    assert not any(path.exists() for path in (folder.messages, folder.output, folder.answered))
    folder.forget_note()
    assert folder.note() is None


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path):
    tail = Tail(tmp_path / "log")
    assert tail.new_lines() == []
    tail.path.write_text("one\ntw")
    assert tail.new_lines() == ["one"]
    with tail.path.open("a") as file:
        file.write("o\n\n")
    assert tail.new_lines() == ["two", ""]
    assert tail.new_lines() == []
