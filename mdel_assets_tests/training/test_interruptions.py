"""Trainings that are killed, told to end, or out of time: they go on and end in the same bits."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.line.conditions import Conditions
from mdel_assets.training.expert import train_expert
from mdel_assets.training.model_files import load_model
from mdel_assets.training.optimize import last_whole_checkpoint, optimize
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import TRAINING

LONG = TRAINING.model_copy(update={"num_tokens": 32 * 4 * 240, "save_steps": 30})


class Run:
    """A training in a process of its own, that can be started again and again."""

    def __init__(self, seed, dataset, folder, training=LONG):
        self.folder = folder
        self.out, self.work = folder / "out", folder / "work"
        self.out.mkdir(parents=True)
        self.code = f"""
from pathlib import Path
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.line.conditions import Conditions
from mdel_assets.training.expert import train_expert
train_expert(
    ExpertTraining.model_validate_json({training.model_dump_json(exclude_unset=True)!r}),
    seed_folder=Path({str(seed)!r}), dataset_folder=Path({str(dataset)!r}),
    folder=Path({str(self.out)!r}), work_folder=Path({str(self.work)!r}),
)
"""

    def start(self):
        return warm_python.start(["-c", self.code])

    def finish(self):
        with self.start() as process:
            printed, _ = process.communicate()
        assert process.returncode == 0, printed

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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_told_to_end_saves_where_it_is_and_goes_on(
    seed, dataset, whole, tmp_path, number
):
    run = Run(seed, dataset, tmp_path)
    with run.start() as process:
        while run.step() == 0:
            time.sleep(0.001)
        process.send_signal(number)
        printed, _ = process.communicate()
    assert process.returncode == 1
    assert f"it was told to end ({number.name}). Run the same command again" in printed
    stopped_at = int(last_whole_checkpoint(run.work).name.split("-")[1])
    assert f"stopped at step {stopped_at} of 240" in printed
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
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for _ in range(3):
        with pytest.raises(TrainingInterruptedError, match=r"of 240: its 0\.01 seconds are over"):
            train_expert(LONG, conditions=Conditions(max_seconds=0.01), **options)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert last_whole_checkpoint(tmp_path / "work") is not None
    train_expert(LONG, **options)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: t.numpy().tobytes() for n, t in found.items()} == whole


@pytest.mark.slow
@pytest.mark.parametrize(("number", "num_at_once"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_the_whole_line_stops_when_a_training_in_it_is_told_to_end(
    corpus, tmp_path, number, num_at_once
):
    """As a queue or Ctrl-C ends it: what is finished stays, and nothing else is begun."""
    from mdel_assets_tests.conftest import PICO, pico_experiment

    training = PICO["training"] | {"num_tokens": 32 * 4 * 2000, "save_steps": 20}
    experiment = pico_experiment(corpus, training=training)
    path = tmp_path / "experiment.yaml"
    path.write_text(
        json.dumps(experiment.model_dump(mode="json", by_alias=True, exclude_unset=True))
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "compute.yaml").write_text(f"models_at_once: {num_at_once}\n")
    place = {"MDEL_HOME": str(tmp_path / "home"), "MDEL_EXPERIMENT": str(path)}
    with warm_python.start([*warm_python.MDEL, "run"], env=os.environ | place) as process:
        work = tmp_path / "home" / "pico" / "work"
        while not list(work.glob("expert_model-github-*/checkpoint-*/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate()
    assert process.returncode == 1
    assert f"was told to end ({number.name}). Run the same command again" in output
    assert "dense_one_baseline" not in output
    assert "1 failed: expert_model all 3" in output
    assert 1 <= len(list(work.glob("expert_model-*"))) <= num_at_once


FULL_DISK = """
import json, resource, signal
from pathlib import Path
import numpy as np
from transformers import TrainerCallback
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.training.model_files import load_model
from mdel_assets.training.optimize import optimize

class FillsUp(TrainerCallback):
    def on_save(self, args, state, control, **_):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))

model = load_model({seed!r})
for name, parameter in model.named_parameters():
    parameter.requires_grad_(".layers.2." in name)
optimize(
    model, np.load({blocks!r}), ExpertTraining.model_validate_json({settings!r}),
    work_folder=Path({work!r}), callbacks=[FillsUp()],
)
"""


@pytest.mark.parametrize("limit", [10_000, 60_000])
def test_a_disk_that_fills_during_a_checkpoint_leaves_the_last_one_whole(seed, tmp_path, limit):
    """Either the weights (35 kB) do not fit any more, or the optimizer's state (twice that)."""
    blocks = np.random.default_rng(0).integers(0, 320, (32, 32)).astype(np.int32)
    np.save(tmp_path / "blocks.npy", blocks)
    code = FULL_DISK.format(
        limit=limit,
        seed=str(seed),
        blocks=str(tmp_path / "blocks.npy"),
        settings=TRAINING.model_copy(update={"save_steps": 2}).model_dump_json(exclude_unset=True),
        work=str(tmp_path / "work"),
    )
    done = warm_python.run(["-c", code])
    assert done.returncode == 1
    assert "DiskFullError: No room to write the checkpoint of step 4" in done.stdout
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["checkpoint-2"]
    ended = []
    for work in ("work", "never stopped"):
        model = load_model(seed)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".layers.2." in name)
        ended.append(optimize(model, blocks, TRAINING, work_folder=tmp_path / work).tensors)
    assert all(tensor.equal(ended[1][name]) for name, tensor in ended[0].items())


def test_checkpoints_come_by_the_clock(seed, tmp_path, monkeypatch):
    """None of a short run; of a long one, one whenever it is time, and one at the end."""
    blocks = np.random.default_rng(0).integers(0, 320, (32, 32)).astype(np.int32)
    saved = []

    class Notes(TrainerCallback):
        def on_save(self, args, state, control, **_):
            saved.append(state.global_step)

    def train(name):
        model = load_model(seed)
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_(".layers.2." in parameter_name)
        optimize(model, blocks, TRAINING, work_folder=tmp_path / name, callbacks=[Notes()])

    train("short")
    assert saved == []
    for constant in (
        "_CHECKPOINT_SECONDS",
        "_MAX_SHARE_LOST",
        "_WORTH_A_LAST_CHECKPOINT_SECONDS",
    ):
        monkeypatch.setattr(f"mdel_assets.training.trainer.{constant}", 0.0)
    monkeypatch.setattr("mdel_assets.training.trainer._MAX_SHARE_OF_SAVING", 1e9)
    monkeypatch.setattr("mdel_assets.training.trainer.Watch.note_saving", _note_no_duration)
    train("long")
    assert saved == list(range(1, TRAINING.num_steps + 1))
    # Where saving takes a second, none is due before fifty have passed.
    saved.clear()
    monkeypatch.setattr("mdel_assets.training.trainer._MAX_SHARE_OF_SAVING", 0.02)
    monkeypatch.setattr("mdel_assets.training.trainer.Watch.note_saving", _note_one_second)
    train("slow to save")
    assert saved == [1]


def _note_no_duration(watch, seconds):
    watch.saved, watch.saving_seconds = time.monotonic(), 0.0


def _note_one_second(watch, seconds):
    watch.saved, watch.saving_seconds = time.monotonic(), 1.0
