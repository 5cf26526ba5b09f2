"""What Dagster costs: one expert made by its command, against the same training without it.

Both start a fresh process, in turns, on the same small experiment; the seed model and the dataset
are there. Beside that: how long the code location takes to load, and in how much memory.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import show

_ROUNDS = 3
_DOMAIN = "github"
_ALONE = """
import os
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
home = MdelHome.from_environment()
make_expert(home.lineage(load_experiment(os.environ["MDEL_EXPERIMENT"])), {domain!r})
"""
_LOAD = """
import resource, time
started = time.perf_counter()
from mdel_assets.definitions import defs
defs().get_repository_def()
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    """Print both times, their difference, and what loading the definitions costs."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        environment = _environment(home, Path(folder))
        _run([_command("mdel"), "init"], environment)
        for asset, keys in _before_the_expert():
            for key in keys:
                _run(_materialize(asset, key), environment)
        through, alone = [], []
        for _ in range(_ROUNDS):
            alone.append(_time([sys.executable, "-c", _ALONE.format(domain=_DOMAIN)], environment))
            shutil.rmtree(home / "overhead" / "models" / "experts")
            through.append(_time(_materialize("expert_model", _DOMAIN), environment))
            shutil.rmtree(home / "overhead" / "models" / "experts")
        show("orchestration/alone", statistics.median(alone), "s")
        show("orchestration/through_dagster", statistics.median(through), "s")
        differences = [one - other for one, other in zip(through, alone, strict=True)]
        show("orchestration/overhead", statistics.median(differences), "s", peer="without Dagster")
        loads = [_run([sys.executable, "-c", _LOAD], environment).split() for _ in range(_ROUNDS)]
        show("orchestration/load", statistics.median(float(s) for s, _ in loads), "s")
        show("orchestration/load_memory", max(float(m) for _, m in loads), "MiB")


def _environment(home: Path, folder: Path) -> dict[str, str]:
    corpus = folder / "corpus"
    for domain in (_DOMAIN, "arxiv"):
        (corpus / domain).mkdir(parents=True)
        for number in range(40):
            text = " ".join(f"{domain} word{(number * place) % 97}" for place in range(200))
            (corpus / domain / f"{number}.txt").write_text(text)
    experiment = folder / "overhead.yaml"
    experiment.write_text(
        f"""
name: overhead
source: {{layout: folders, train: ["{corpus}"]}}
domains: [{{key: {_DOMAIN}, name: {_DOMAIN}}}, {{key: arxiv, name: arxiv}}]
seed_model:
  pretrain:
    model: {{model_type: gpt_neox, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 2,
            intermediate_size: 256, max_position_embeddings: 128}}
    vocab_size: 320
    block_size: 64
    num_tokens: 8192
training: {{trained_layers: [2, 3], block_size: 64, num_tokens: 65536, batch_size: 8}}
"""
    )
    return {
        **os.environ,
        "MDEL_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "MDEL_EXPERIMENT": str(experiment),
        "WANDB_MODE": "offline",
        "PYTHONWARNINGS": "ignore",
    }


def _before_the_expert() -> list[tuple[str, list[str]]]:
    shard, none = ["corpus"], [""]
    return [
        ("raw_pile_shard", shard),
        ("shard_documents", shard),
        ("domain_dataset", [_DOMAIN, "arxiv"]),
        ("seed_model", none),
    ]


def _materialize(asset: str, key: str) -> list[str]:
    partition = ["--partition", key] if key else []
    module = ["-m", "mdel_assets.definitions"]
    return [_command("dagster"), "asset", "materialize", *module, "--select", asset, *partition]


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _time(arguments: list[str], environment: dict[str, str]) -> float:
    started = time.monotonic()
    _run(arguments, environment)
    return time.monotonic() - started


def _run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout
