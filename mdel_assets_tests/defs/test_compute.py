"""Training through workers: the same expert, whatever started the processes that train it."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time

import dagster as dg
import psutil
import pytest
from safetensors.torch import load_file

from mdel_assets.defs.graph import build_definitions
from mdel_assets.engines.job_folder import JobFolder, Note
from mdel_assets.engines.worker_spec import WorkerSpec, raise_outcome
from mdel_assets.errors import TrainingError, TrainingInterruptedError
from mdel_assets.experiment.adapters import Adapter
from mdel_assets.home import MdelHome
from mdel_assets.machine.processes import require_processes
from mdel_assets.training.optimize import last_whole_checkpoint
from mdel_assets.worker import run_worker
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.defs.running_dagster import environment
from mdel_assets_tests.waiting import wait_until

# Dagster warns of its own Pipes.
pytestmark = pytest.mark.filterwarnings("ignore:.*PipesMessageReader.*in preview")
KIND, DOMAIN = "expert_model", "arxiv"
TOGETHER = {"engine": "accelerate", "num_processes": 2}


@pytest.fixture
def place(branched, tmp_path):
    shutil.copytree(branched[1].root, tmp_path / "home")
    return MdelHome(tmp_path / "home")


def train(experiment, home, **compute):
    """Materialize one expert; return the run's result and the expert's artifact."""
    job = build_definitions(experiment, home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(KIND)],
            partition_key=DOMAIN,
            run_config={"resources": {"compute": {"config": compute}}},
            raise_on_error=False,
        )
    return result, home.lineage(experiment).artifact("expert_model", DOMAIN)


@pytest.fixture
def warm(monkeypatch):
    """Lets workers, and what launches them, have all libraries loaded when they start."""
    monkeypatch.setattr(sys, "executable", warm_python.executable())


def spec_of(experiment, home, folder, *, num_processes=1):
    spec = WorkerSpec(
        experiment=experiment.model_dump(mode="json", by_alias=True, exclude_unset=True),
        home=str(home.root),
        kind=KIND,
        keys=[DOMAIN],
        num_processes=num_processes,
        tracking_folder=str(folder),
        tracking_mode="disabled",
    )
    spec.write(folder / "spec.json")
    return folder / "spec.json"


def weights(artifact):
    return load_file(artifact.folder / "model.safetensors")


def failure(result):
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    return (error.cause or error).message


@pytest.fixture(scope="module")
def alone(branched, tmp_path_factory):
    """The expert as the step's own process trains it."""
    home = MdelHome(tmp_path_factory.mktemp("alone") / "home")
    shutil.copytree(branched[1].root, home.root)
    result, artifact = train(branched[0], home)
    assert result.success
    return artifact


@pytest.mark.slow
def test_a_worker_makes_the_same_bits_and_its_log_is_dagsters(branched, place, alone):
    result, artifact = train(branched[0], place, engine="accelerate")
    assert result.success
    ours, theirs = weights(artifact), weights(alone)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert artifact.require().fingerprint == alone.require().fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_the_adapter_of_one(branched, place, tmp_path, warm, sharded):
    training = branched[0].training.model_copy(update={"adapter": Adapter(rank=4)})
    experiment = branched[0].model_copy(update={"training": training})
    home = MdelHome(shutil.copytree(branched[1].root, tmp_path / "alone"))
    found = []
    for where, compute in ((home, {}), (place, TOGETHER | {"sharded": sharded})):
        result, artifact = train(experiment, where, **compute)
        assert result.success
        details = artifact.require().details
        assert details["changed_though_frozen"] == []
        stored = load_file(artifact.folder / "adapter" / "adapter_model.safetensors")
        found.append((details["losses_after"], {n: t.shape for n, t in stored.items()}))
    (losses, shapes), (theirs, theirs_shapes) = found
    assert shapes == theirs_shapes
    for split, loss in losses.items():
        assert theirs[split] == pytest.approx(loss, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_the_expert_of_one(branched, place, alone, request, sharded):
    """Data parallel and sharded, with a stop in between that both processes have to agree on."""
    compute = TOGETHER | {"sharded": sharded}
    # These load all that they need themselves, as a user's do.
    result, artifact = train(branched[0], place, **compute, max_seconds=0.0)
    assert "its 0 seconds are over. Run the same command again" in failure(result)
    (checkpoint,) = artifact.folder.parents[2].glob("work/expert_model-*/checkpoint-1")
    # Only a sharded model leaves its shards' files.
    assert bool(list(checkpoint.glob("*fsdp*"))) == sharded
    request.getfixturevalue("warm")
    result, artifact = train(branched[0], place, **compute)
    assert result.success
    ours, theirs = (one.all_details(one.require()) for one in (artifact, alone))
    assert ours["history"]["num_processes"] == 2
    for split, loss in theirs["losses_after"].items():
        assert ours["losses_after"][split] == pytest.approx(loss, rel=1e-3)
    together, single = (dict(r["history"]["curves"]["loss"]) for r in (ours, theirs))
    assert together.keys() == single.keys()
    assert all(together[step] == pytest.approx(single[step], rel=1e-3) for step in single)
    assert ours["changed_though_frozen"] == []
    assert not list(artifact.folder.parents[2].glob("work/expert_model-*"))


@pytest.mark.slow
def test_a_workers_error_is_the_runs_with_its_remedy(corpus, place, warm):
    training = PICO["training"] | {"trained_layers": ["1.cross_attention"]}
    experiment = pico_experiment(corpus, training=training)
    result, artifact = train(experiment, place, engine="accelerate")
    assert failure(result).startswith("mdel_assets.errors.TrainingError")
    assert "cross_attention" in failure(result)
    assert not artifact.folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_told_to_end_saves_a_checkpoint_and_says_so(corpus, place, tmp_path, number):
    """A cancelled run sends the first, a queue the second."""
    training = PICO["training"] | {"num_tokens": 32 * 4 * 4000, "save_steps": 20}
    experiment = pico_experiment(corpus, training=training)
    spec = spec_of(experiment, place, tmp_path)
    words = ["-m", "mdel_assets.worker", spec]
    work = place.root / "pico" / "work"
    with warm_python.start(words, output=subprocess.DEVNULL) as process:
        while not list(work.glob("expert_model-*/checkpoint-*/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    assert process.returncode == 1
    with pytest.raises(
        TrainingInterruptedError, match=rf"{number.name}.*Run the same command again"
    ):
        raise_outcome(spec)
    (folder,) = work.glob("expert_model-*")
    assert last_whole_checkpoint(folder) is not None


@pytest.mark.in_use
@pytest.mark.slow
def test_workers_end_with_the_run_that_is_killed(corpus, place, tmp_path):
    """What launched them, torchrun, would outlive it."""
    training = PICO["training"] | {"num_tokens": 32 * 4 * 4000, "save_steps": 20}
    experiment = pico_experiment(corpus, training=training)
    (place.root / "compute.yaml").write_text(json.dumps(TOGETHER))
    place.initialize("pico")
    words = ["asset", "materialize", "-m", "mdel_assets.definitions", "--select", KIND]
    work = place.root / "pico" / "work"
    process = warm_python.start(
        ["-m", "dagster", *words, "--partition", DOMAIN],
        env=environment(experiment, place, tmp_path),
        cwd=tmp_path,
    )
    with process:
        saved = "expert_model-*/checkpoint-*/trainer_state.json"
        wait_until(lambda: process.poll() is not None or list(work.glob(saved)), every=0.02)
        assert process.poll() is None, process.communicate()[0][-3000:]
        workers = [one for one in psutil.process_iter() if is_worker(one, place.root)]
        assert len(workers) >= TOGETHER["num_processes"]
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert alive == []


def is_worker(process, home):
    """Whether a process is one of the workers of a home, or what launched them."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return "mdel_assets.worker" in words and words[-1].startswith(str(home))
    return False


def test_run_configuration_offers_no_launcher(branched, place, tmp_path):
    command = ["touch", str(tmp_path / "ran")]
    with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "launcher"'):
        train(branched[0], place, engine="accelerate", launcher=command)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_launcher_that_is_killed_says_to_run_again(branched, place):
    command = ["/bin/sh", "-c", "kill -9 $$"]
    content = {"engine": "accelerate", "launcher": command}
    (place.root / "compute.yaml").write_text(json.dumps(content))
    result, _ = train(branched[0], place)
    assert "was killed, or could not start" in failure(result)
    assert "goes on from its last checkpoint" in failure(result)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"engine": "acelerate"}, "Did you mean 'accelerate'?"),
        ({"num_processes": 2}, "set compute.engine to accelerate"),
        (
            {"engine": "slurm", "kinds": {"token_scores": {"options": ["--wrap=touch FILE"]}}},
            "compute.kinds.token_scores.options cannot be set in run configuration",
        ),
        *(
            ({"engine": engine, engine: {key: value}}, f"compute.{engine}.{key} cannot be set")
            for engine in ("slurm", "ray")
            for key, value in {
                "python": "touch",
                "environment": ["touch FILE"],
                "modules": ["x"],
                "options": ["--wrap=touch FILE"],
                "address": "http://elsewhere.example",
            }.items()
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(
    branched, place, compute, message
):
    result, artifact = train(branched[0], place, **compute)
    assert message in failure(result)
    assert not artifact.folder.exists()


def test_a_launcher_that_starts_another_number_of_processes_is_refused(branched, place, tmp_path):
    spec = spec_of(branched[0], place, tmp_path, num_processes=2)
    with pytest.raises(TrainingError, match=r"have started 2 processes .* is 1"):
        run_worker(spec)
    require_processes(1)


def test_a_specification_holds_the_whole_experiment(branched, tmp_path):
    from mdel_assets.experiment.experiment import Experiment

    experiment = branched[0]
    content = experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert Experiment.model_validate(json.loads(json.dumps(content))) == experiment


def test_a_batch_that_does_not_divide_by_the_processes_is_refused(monkeypatch, tmp_path):
    from mdel_assets.training.trainer_arguments import training_arguments
    from mdel_assets_tests.conftest import TRAINING

    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match=r"batch_size 4 is not a multiple of the 3 processes"):
        training_arguments(TRAINING, tmp_path)


NOTE = Note("slurm", "0123", 0, "5")


def test_no_shard_is_read_here_beside_a_job_of_a_killed_run(branched, place, tmp_path):
    experiment, kind = branched[0], "shard_documents"
    folder = JobFolder(place.root / "pico" / "work" / "workers" / f"{kind}-both")
    spec = WorkerSpec.model_validate_json(spec_of(experiment, place, tmp_path).read_text())
    folder.prepare(spec.model_copy(update={"kind": kind, "keys": ("00", "01")}), NOTE)
    artifact = place.lineage(experiment).artifact(kind, "01")
    assert materialize(experiment, place, kind, "01").success
    artifact.remove()
    result = materialize(experiment, place, kind, "01", raise_on_error=False)
    assert "Job 5 of compute.engine slurm may still work here" in failure(result)
    assert not artifact.folder.exists()
    folder.forget_note()
    assert materialize(experiment, place, kind, "01").success
    artifact.require()


def test_no_model_is_trained_here_beside_a_job_though_others_are_jobs(branched, place, tmp_path):
    spec = WorkerSpec.model_validate_json(spec_of(branched[0], place, tmp_path).read_text())
    JobFolder(place.root / "pico" / "work" / "workers" / f"{KIND}-{DOMAIN}").prepare(spec, NOTE)
    here = {"engine": "slurm", "kinds": {KIND: {"engine": "local"}}}
    result, artifact = train(branched[0], place, **here)
    assert "Job 5 of compute.engine slurm may still work here" in failure(result)
    assert not artifact.folder.exists()


@pytest.mark.in_use
def test_run_configuration_says_neither_where_things_go_nor_what_is_run(branched, place):
    definitions = build_definitions(branched[0], place)
    offered = {
        name: set(resource.config_schema.config_type.fields)
        for name, resource in definitions.get_repository_def().get_top_level_resources().items()
    }
    assert offered == {
        # A name that pages show: the graph is of one experiment whatever it says.
        "workspace": {"experiment"},
        "tracking": {"mode"},
        "hub": {"dry_run"},
        "compute": {
            "engine",
            "models_at_once",
            "max_seconds",
            "num_processes",
            "sharded",
            "slurm",
            "ray",
            "kinds",
        },
    }
    graph = definitions.resolve_implicit_global_asset_job_def()
    for node in graph.nodes:
        fields = getattr(node.definition.config_schema.config_type, "fields", {})
        assert not fields, node.name
    elsewhere = {"workspace": {"root": "/elsewhere"}, "hub": {"endpoint": "file:/elsewhere"}}
    for name, config in elsewhere.items():
        with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
            graph.execute_in_process(run_config={"resources": {name: {"config": config}}})
