"""Trainings that are killed, told to end, or out of time: they go on and end in the same bits."""

import random
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.training.conditions import Conditions
from mdel_assets.training.expert import train_expert
from mdel_assets.training.optimize import last_whole_checkpoint
from mdel_assets_tests.conftest import TRAINING

LONG = TRAINING.model_copy(update={"num_tokens": 32 * 4 * 240})


class Run:
    """A training in a process of its own, that can be started again and again."""

    def __init__(self, seed, dataset, folder):
        self.folder = folder
        self.out, self.work = folder / "out", folder / "work"
        self.out.mkdir(parents=True)
        self.code = f"""
from pathlib import Path
from mdel_assets.experiment_fields import ExpertTraining
from mdel_assets.training.conditions import Conditions
from mdel_assets.training.expert import train_expert
train_expert(
    ExpertTraining.model_validate_json({LONG.model_dump_json()!r}),
    seed_folder=Path({str(seed)!r}), dataset_folder=Path({str(dataset)!r}),
    folder=Path({str(self.out)!r}), work_folder=Path({str(self.work)!r}),
)
"""

    def start(self):
        command = [sys.executable, "-W", "ignore", "-c", self.code]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def finish(self):
        with self.start() as process:
            _, errors = process.communicate()
        assert process.returncode == 0, errors

    def step(self):
        """Return the step of the last checkpoint that lies there, whole or not."""
        steps = [int(path.name.split("-")[1]) for path in self.work.glob("checkpoint-*")]
        return max(steps, default=0)

    def weights(self):
        return {
            n: t.numpy().tobytes() for n, t in load_file(self.out / "model.safetensors").items()
        }


@pytest.fixture(scope="module")
def seed(make_model):
    return make_model()


@pytest.fixture(scope="module")
def whole(seed, dataset, tmp_path_factory):
    run = Run(seed, dataset, tmp_path_factory.mktemp("whole"))
    run.finish()
    return run.weights()


@pytest.mark.slow
def test_a_training_killed_five_times_ends_in_the_same_weights(seed, dataset, whole, tmp_path):
    """SIGKILL at a random moment after each new checkpoint appears, perhaps half-written."""
    run = Run(seed, dataset, tmp_path)
    draw = random.Random(0)
    num_kills = 0
    while num_kills < 5:
        before = run.step()
        with run.start() as process:
            while process.poll() is None and run.step() <= before:
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.1))
            process.kill()
        assert process.returncode == -signal.SIGKILL, "the training is too short for five kills"
        assert not (run.out / "model.safetensors").exists()
        num_kills += 1
    run.finish()
    assert run.weights() == whole


@pytest.mark.slow
def test_a_training_told_to_end_saves_where_it_is_and_goes_on(seed, dataset, whole, tmp_path):
    run = Run(seed, dataset, tmp_path)
    with run.start() as process:
        while run.step() == 0:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert "it was told to end (SIGTERM). Run the same command again" in errors
    stopped_at = int(last_whole_checkpoint(run.work).name.split("-")[1])
    assert f"stopped at step {stopped_at} of 240" in errors
    run.finish()
    assert run.weights() == whole


@pytest.mark.slow
def test_a_training_out_of_time_goes_on_until_it_is_done(seed, dataset, whole, tmp_path):
    (tmp_path / "out").mkdir()
    options = {
        "seed_folder": seed,
        "dataset_folder": dataset,
        "folder": tmp_path / "out",
        "work_folder": tmp_path / "work",
    }
    before = signal.getsignal(signal.SIGTERM)
    for _ in range(3):
        with pytest.raises(TrainingInterruptedError, match=r"of 240: its 0\.01 seconds are over"):
            train_expert(LONG, conditions=Conditions(max_seconds=0.01), **options)
    assert signal.getsignal(signal.SIGTERM) is before
    assert last_whole_checkpoint(tmp_path / "work") is not None
    train_expert(LONG, **options)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: t.numpy().tobytes() for n, t in found.items()} == whole
