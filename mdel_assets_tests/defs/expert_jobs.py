"""Experts that are trained by jobs of a cluster, as tests ask for them and look at them."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml
from safetensors.torch import load_file

from mdel_assets.defs.graph import build_definitions
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO

KIND = "expert_model"
# Two jobs of two threads each would wait for one another on two processors.
QUICK = {"poll_seconds": 0.2, "environment": ["export OMP_NUM_THREADS=1"]}


def training_of(num_steps: int) -> dict[str, Any]:
    """Return settings for a training of so many steps of 128 tokens, with many checkpoints."""
    return PICO["training"] | {"num_tokens": 32 * 4 * num_steps, "save_steps": 25}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run failed with, if it did, what its log says and which partitions it recorded."""

    failure: str
    log: list[str]
    recorded: set[str]

    def says(self, words: str) -> bool:
        return any(words in line for line in self.log)


@dataclasses.dataclass(frozen=True)
class Place:
    """A copy of a branched home, the experiment on it, and the engine of its ``compute.yaml``."""

    home: MdelHome
    experiment: Experiment

    @classmethod
    def of(
        cls, branched: MdelHome, root: Path, experiment: Experiment, compute: Mapping[str, Any]
    ) -> "Place":
        shutil.copytree(branched.root, root)
        (root / "compute.yaml").write_text(yaml.safe_dump(dict(compute)))
        return cls(MdelHome(root), experiment)

    def train(self, *domains: str) -> Run:
        """Materialize a range of experts in one run."""
        definitions = build_definitions(self.experiment, self.home)
        tags = {
            "dagster/asset_partition_range_start": domains[0],
            "dagster/asset_partition_range_end": domains[-1],
        }
        logs = {"managed_python_loggers": ["mdel_assets"], "python_log_level": "INFO"}
        with dg.DagsterInstance.ephemeral(settings={"python_logs": logs}) as instance:
            result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey(KIND)],
                tags=tags,
                raise_on_error=False,
            )
            log = [entry.user_message for entry in instance.all_logs(result.run_id)]
            recorded = instance.get_materialized_partitions(dg.AssetKey(KIND))
        failures = [
            (event.step_failure_data.error.cause or event.step_failure_data.error).message
            for event in result.all_events
            if event.is_step_failure
        ]
        return Run("\n".join(failures), log, recorded)

    def start(self, *keys: str, kind: str = KIND) -> warm_python.Process:
        """Materialize a range through Dagster's command line, in a process that can be killed."""
        self.home.initialize(self.experiment.name)
        path = self.home.root / "pico.yaml"
        content = self.experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
        path.write_text(yaml.safe_dump(content))
        words = ["-m", "dagster", "asset", "materialize", "-m", "mdel_assets.definitions"]
        selection = ["--select", kind, "--partition-range", f"{keys[0]}...{keys[-1]}"]
        where = {
            "MDEL_EXPERIMENT": str(path),
            "MDEL_HOME": str(self.home.root),
            "DAGSTER_HOME": str(self.home.dagster_home(self.experiment.name)),
        }
        return warm_python.start(
            [*words, *selection], env=os.environ | where, output=subprocess.DEVNULL
        )

    def weights(self, domain: str) -> dict[str, Any]:
        artifact = self.home.lineage(self.experiment).artifact("expert_model", domain)
        artifact.require()
        return load_file(artifact.folder / "model.safetensors")

    def has_expert(self, domain: str) -> bool:
        return self.home.lineage(self.experiment).folder("expert_model", domain).exists()

    def has_checkpoint(self, domain: str) -> bool:
        """Whether a training that has not ended has saved a checkpoint, whole or nearly so."""
        work = self.home.root / "pico" / "work"
        return any(work.glob(f"{KIND}-{domain}-*/checkpoint-*/trainer_state.json"))

    def note(self, domain: str) -> Path:
        return self.home.root / "pico" / "work" / "workers" / f"{KIND}-{domain}" / "note.json"

    def worker(self, domain: str) -> psutil.Process:
        """Return the process that trains ``domain``'s expert."""
        spec = str(self.note(domain).with_name("spec.json"))
        (found,) = [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.info["cmdline"]
            and process.info["cmdline"][-3:] == ["-m", "mdel_assets.worker", spec]
        ]
        if str(warm_python.CLIENT) in found.cmdline():
            # It stands in for one that was forked.
            return warm_python.family(found.pid)[1]
        return found


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have this process compute as jobs with `QUICK` do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def are_equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether all tensors are equal to the bit."""
    return ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)
