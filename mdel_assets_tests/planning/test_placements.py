"""Plans with the settings of `compute.yaml`: jobs of a cluster, and several processes."""

import dataclasses

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.defs.compute import load_compute
from mdel_assets.defs.placements import placements_of
from mdel_assets.home import MdelHome
from mdel_assets.line.price import Price
from mdel_assets.planning.clock import OtherDevices, peak_memory
from mdel_assets.planning.devices import device_of_rate
from mdel_assets.planning.placements import Placement
from mdel_assets.planning.plan import plan_stages, warnings_of
from mdel_assets.planning.planned import plan_run
from mdel_assets.planning.table import plan_lines, stage_in_words
from mdel_assets.planning.wanted import Wanted
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.planning.test_plan import experiment_file

ONE_TERAFLOP = device_of_rate(1.0)
SLURM = {
    "engine": "slurm",
    "num_processes": 4,
    "slurm": {"gpus": 4, "cpus": 8, "partition": "big", "max_at_once": 2},
    "kinds": {
        "token_scores": {"parts": 3, "models_per_job": 8},
        "domain_dataset": {"gpus": None, "partition": None},
        "sample_texts": {"engine": "ray", "num_gpus": 1, "num_cpus": 2},
    },
}


@pytest.fixture
def placements(tmp_path):
    """Return a function that reads the settings that it writes into a home."""

    def read(**settings):
        (tmp_path / "compute.yaml").write_text(yaml.safe_dump(settings))
        return placements_of(load_compute(MdelHome(tmp_path), {}))

    return read


class SmallMachine(OtherDevices):
    """A machine with one core of a TFLOP/s and a byte of memory, on which jobs do not run."""

    has_jobs = False

    def __init__(self):
        super().__init__(dataclasses.replace(ONE_TERAFLOP, memory_bytes=1.0))


def stages_of(branched, clock, placements, *kinds):
    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    keys = {"expert_model": ("github", "arxiv", "freelaw"), "layer_differences": ("github",)}
    wanted = [Wanted(kind, keys.get(kind, ("seed", "dense")), 0) for kind in kinds]
    return plan_stages(sizes, wanted, clock, placements)


def test_settings_of_a_file_become_placements(placements):
    found = placements(**SLURM)
    expert = found["expert_model"]
    assert (expert.engine, expert.num_processes, expert.max_at_once) == ("slurm", 4, 2)
    assert expert.resources == "4 GPUs, 8 cores, partition big"
    assert expert.has_gpu
    # Several processes are for trainings alone.
    assert found["token_scores"].num_processes == 1
    assert (found["token_scores"].engine, found["token_scores"].division.parts) == ("slurm", 3)
    assert found["domain_dataset"].resources == "8 cores"
    assert not found["domain_dataset"].has_gpu
    assert found["sample_texts"].resources == "1 GPU, 2 cores"
    assert found["merged_model"] == Placement()
    nothing = placements()
    assert set(nothing.values()) == {Placement()}


def test_jobs_are_told_and_are_no_matter_of_this_machines_memory(branched, placements):
    found = placements(**SLURM)
    machine = SmallMachine()
    expert, differences = stages_of(branched, machine, found, "expert_model", "layer_differences")
    assert expert.jobs == (
        "3 SLURM jobs, 2 at a time, of 4 processes (4 GPUs, 8 cores, partition big)"
    )
    assert (expert.fits, differences.fits) == (True, False)
    assert differences.jobs == ""
    # On the device of the jobs, which is named, their memory does matter.
    (named,) = stages_of(
        branched,
        OtherDevices(dataclasses.replace(ONE_TERAFLOP, memory_bytes=1.0)),
        found,
        "expert_model",
    )
    assert not named.fits


def test_processes_divide_the_operations_of_a_training(placements):
    from mdel_assets.kinds import KINDS
    from mdel_assets.line.price import Pace

    kind = next(kind for kind in KINDS if kind.name == "expert_model")
    pace = Pace("training", 32, "float32")
    prices = [Price(operations=1e15, pace=pace)] * 3
    together = Placement(engine="accelerate", num_processes=4)
    four = OtherDevices(device_of_rate(1.0, count=4))
    # One after another, each by four devices of a TFLOP/s: 250 s; and a run's overhead.
    assert four.seconds(kind, prices, 1, None, together) == pytest.approx(750.25)
    # As jobs, two at a time: eight devices hold two, so that three take two rounds of 250 s and
    # 8 s of libraries.
    eight = OtherDevices(device_of_rate(1.0, count=8))
    jobs = Placement(engine="slurm", num_processes=4, max_at_once=2)
    assert eight.seconds(kind, prices, 1, None, jobs) == pytest.approx(2 * 258 + 0.25)
    unlimited = dataclasses.replace(jobs, max_at_once=None)
    assert eight.seconds(kind, prices, 1, None, unlimited) == pytest.approx(2 * 258 + 0.25)
    twelve = OtherDevices(device_of_rate(1.0, count=12))
    assert twelve.seconds(kind, prices, 1, None, unlimited) == pytest.approx(258.25)
    # Two devices are two, however many processes they are given.
    two = OtherDevices(device_of_rate(1.0, count=2))
    assert two.seconds(kind, prices, 1, None, together) == pytest.approx(1500.25)


def test_this_machine_divides_among_processes_and_holds_a_model_in_each(branched, tmp_path):
    from mdel_assets.line.price import Pace
    from mdel_assets.planning.clock import ThisMachine
    from mdel_assets.planning.measure import measured_pace, num_cores

    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    kind = sizes.lineage.registry["dense_baseline"]
    machine = ThisMachine(cache=tmp_path)
    count = num_cores()
    together = Placement(engine="accelerate", num_processes=count)
    pace = Pace("training", 32, "float32", num_rows=4)
    price = Price(operations=1e12, memory_bytes=1e9, pace=pace)
    rate = measured_pace(sizes.model.config, pace, num_processes=count, cache=tmp_path)
    seconds = machine.seconds(kind, [price], 1, sizes, together)
    begun = 8.0 * (count > 1) + 0.25
    by_hand = 1e12 / count / rate.operations_per_second + begun * machine.slowness
    assert seconds == pytest.approx(by_hand)
    assert machine.num_at_once(kind, [price] * 3, sizes, together) == 1
    assert machine.num_copies(together) == count
    assert machine.num_copies(Placement(engine="slurm", num_processes=4, has_gpu=True)) == 1
    assert peak_memory([price], 2) > 2e9


def test_models_at_once_are_those_that_the_file_says(branched, placements, tmp_path):
    from mdel_assets.planning.clock import ThisMachine

    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    kind = sizes.lineage.registry["expert_model"]
    two = placements(models_at_once=2)["expert_model"]
    machine = ThisMachine(cache=tmp_path)
    assert machine.num_at_once(kind, [Price()] * 3, sizes, two) == 2
    one = placements(models_at_once=1)["expert_model"]
    assert machine.num_at_once(kind, [Price(operations=1e15)] * 3, sizes, one) == 1


def test_scorings_side_by_side_have_room_for_the_largest_model(branched, tmp_path):
    import torch

    from mdel_assets.planning.clock import ThisMachine
    from mdel_assets.planning.measure import num_cores

    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    kind = sizes.lineage.registry["token_scores"]
    machine = ThisMachine(cache=tmp_path)
    small, large = (Price(operations=1e15, memory_bytes=size) for size in (1e6, 1e15))
    if not torch.cuda.is_available():
        assert machine.num_at_once(kind, [small] * 2, sizes) == min(2, num_cores())
    assert machine.num_at_once(kind, [small, large], sizes) == 1


def test_scores_are_divided_into_packs_and_parts(placements):
    from mdel_assets.kinds import KINDS

    rows = {kind.name: kind for kind in KINDS}
    scores = placements(**SLURM)["token_scores"]
    # 22 models in packs of 8, each in three parts; two jobs run at a time.
    assert scores.num_jobs(rows["token_scores"], 22) == 9
    assert scores.rounds(9) == 5
    # All datasets share their work.
    datasets = placements(**SLURM)["domain_dataset"]
    assert datasets.in_words(rows["domain_dataset"], 22) == "1 SLURM job (8 cores)"
    assert datasets.in_words(rows["domain_dataset"], 0) == ""


def test_tables_and_notes_tell_of_jobs(branched, placements):
    experiment, home = branched
    lineage = home.lineage(experiment)
    plan = plan_run(lineage, device=ONE_TERAFLOP, placements=placements(**SLURM))
    lines = plan_lines(plan)
    (row,) = [line for line in lines if line.startswith("expert_model ") and "a job" in line]
    assert row.endswith(" a job")
    (told,) = [line for line in lines if line.startswith("expert_model is made elsewhere")]
    assert "3 SLURM jobs, 2 at a time" in told
    stages = {stage.kind: stage for stage in plan.stages}
    assert "in 3 SLURM jobs" in stage_in_words(stages["expert_model"])
    # The peak of the run is that of the stages that are no jobs.
    here = [stage.memory_bytes for stage in plan.stages if not stage.jobs]
    assert plan.memory_bytes == max(here) < stages["expert_model"].memory_bytes + max(here)
    assert not warnings_of(plan)
    # Twelve models in packs of eight, each in three parts.
    assert stages["token_scores"].jobs.startswith("6 SLURM jobs, 2 at a time (")


def test_the_command_reads_the_file(corpus, tmp_path):
    file = experiment_file(corpus, tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "compute.yaml").write_text(yaml.safe_dump(SLURM))
    command = ["plan", "-e", str(file), "--tflops", "1"]
    done = CliRunner().invoke(main, command, env={"MDEL_HOME": str(home)})
    assert done.exit_code == 0, done.output
    assert "expert_model is made elsewhere: 3 SLURM jobs" in done.output
    assert "The time that jobs wait in the queue is not counted." in done.output
    assert "ot priced" not in done.output
