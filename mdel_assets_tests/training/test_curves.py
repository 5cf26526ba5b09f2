"""What a training logs: its curves in the record, and the same in W&B under one run."""

import os
import signal
import time

import pytest

from mdel_assets.line.conditions import Conditions
from mdel_assets.tracking import Tracker
from mdel_assets.training.curves import curves_of, tracked_run
from mdel_assets.training.expert import train_expert
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import TRAINING
from mdel_assets_tests.wandb_files import history, read_records

WATCHED = TRAINING.model_copy(update={"eval_steps": 4, "logging_steps": 2})
METRICS = {
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "loss/validation_domain",
    "loss/validation_pile",
}


def test_the_log_gives_a_curve_for_each_measure():
    log = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1, "epoch": 0.5},
        {"step": 1, "eval_validation_pile_loss": 3.0, "eval_validation_pile_runtime": 9.0},
        {"step": 2, "loss": 1.5, "grad_norm": 0.25},
        {"step": 2, "train_runtime": 4.0},
    ]
    assert curves_of(log) == {
        "loss": [(1, 2.0), (2, 1.5)],
        "learning_rate": [(1, 0.1)],
        "grad_norm": [(2, 0.25)],
        "loss/validation_pile": [(1, 3.0)],
    }


def test_a_training_shorter_than_its_interval_of_logging_has_its_last_loss(
    make_model, dataset, tmp_path
):
    (tmp_path / "out").mkdir()
    result = train_expert(
        TRAINING.model_copy(update={"max_steps": 3, "logging_steps": 500}),
        seed_folder=make_model(),
        dataset_folder=dataset,
        folder=tmp_path / "out",
        work_folder=tmp_path / "work",
    )
    assert [step for step, _ in result.history.curves["loss"]] == [3]
    assert result.history.final_loss == result.history.curves["loss"][0][1]


def test_a_training_keeps_curves_of_everything_it_measures(make_model, dataset, tmp_path):
    (tmp_path / "out").mkdir()
    result = train_expert(
        WATCHED,
        seed_folder=make_model(),
        dataset_folder=dataset,
        folder=tmp_path / "out",
        work_folder=tmp_path / "work",
    )
    curves = result.history.curves
    assert curves.keys() == METRICS
    assert [step for step, _ in curves["loss"]] == list(range(2, 17, 2))
    assert [step for step, _ in curves["loss/validation_domain"]] == [4, 8, 12, 16]
    for split, after in result.losses_after.items():
        # The same model, measured by the Trainer and by ourselves on what was stored.
        assert curves[f"loss/{split}"][-1][1] == pytest.approx(after, rel=1e-5)
    rates = [rate for _, rate in curves["learning_rate"]]
    assert rates == sorted(rates, reverse=True)
    assert min(pace for _, pace in curves["tokens_per_second"]) > 0


CODE = """
from pathlib import Path
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.tracking import Tracker
from mdel_assets.line.conditions import Conditions
from mdel_assets.training.curves import tracked_run
from mdel_assets.training.expert import train_expert
folder = Path({folder!r})
tracker = Tracker(project="mdel", entity=None, group="pico", folder=folder, mode="offline")
work = folder / "work"
with tracked_run(tracker, "expert-arxiv", tags=["arxiv"], config={{}}, work_folder=work) as run:
    train_expert(
        ExpertTraining.model_validate_json({settings!r}),
        seed_folder=Path({seed!r}), dataset_folder=Path({dataset!r}),
        folder=folder / "out", work_folder=work, conditions=Conditions(run=run),
    )
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_under_one_run_and_loses_no_figure(make_model, dataset, tmp_path):
    (tmp_path / "out").mkdir()
    long = WATCHED.model_copy(update={"num_tokens": 32 * 4 * 160, "save_steps": 20})
    code = CODE.format(
        folder=str(tmp_path),
        settings=long.model_dump_json(exclude_unset=True),
        seed=str(make_model()),
        dataset=str(dataset),
    )
    # A process of its own, with a W&B service of its own: not the one of this test run.
    alone = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    with warm_python.start(["-c", code], env=alone) as process:
        while not list(tmp_path.glob("work/checkpoint-*/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    warm_python.run(["-c", code], env=alone, check=True)
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) >= 2
    ids = set()
    logged: dict[str, set[int]] = {}
    for folder in folders:
        if not list(folder.glob("*.wandb")):
            # Killed before anything of it was on disk.
            continue
        records = read_records(tmp_path, name=folder.name)
        ids |= {record.run.run_id for record in records if record.HasField("run")}
        for entry in history(records):
            for name in METRICS & entry.keys():
                logged.setdefault(name, set()).add(entry["_step"])
    assert ids == {(tmp_path / "work" / "wandb_run_id").read_text()}
    assert logged["loss"] == set(range(2, 161, 2))
    assert logged["loss/validation_pile"] == set(range(4, 161, 4))
    assert logged.keys() == METRICS


def test_two_trainings_of_one_name_are_two_runs(tmp_path):
    tracker = Tracker(project=None, entity=None, group="g", folder=tmp_path, mode="disabled")
    found = []
    for name in ("first", "second", "second"):
        work = tmp_path / name
        with tracked_run(tracker, "expert-x", tags=[], config={}, work_folder=work) as run:
            assert run is None
        found.append((work / "wandb_run_id").read_text())
    assert found[0] != found[1]
    assert found[1] == found[2]
    assert Conditions().run is None
