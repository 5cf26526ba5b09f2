"""The pace of trainings and scorings beside busy processes, against their pace when alone.

Two models: A is 96 wide with 3 layers (the sample's kind), B is 256 wide with 4; blocks of 128
tokens, 16 to a step. A busy process is an endless loop in Python; there are none, one, and one per
core. Ours shares cores as every training and scoring does (`machine/shared_cores.py`). Plain is
the same with ``GOMP_SPINCOUNT`` at its own default: a user's setting, which is left alone. One
thread is ``OMP_NUM_THREADS=1``. All are at hand in processes of their own and take turns of some
seconds, so that whatever else the machine does meets all of them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import show
from benchmarks.models import gpt_neox

_MODELS = {"A": (96, 3), "B": (256, 4)}
_WORK = ("training", "scoring")
_WAYS = {
    "ours": {},
    "plain": {"GOMP_SPINCOUNT": "300000"},
    "one-thread": {"OMP_NUM_THREADS": "1"},
}
_VOCABULARY, _BLOCK_SIZE, _BATCH_SIZE = 1024, 128, 16
_TURN_SECONDS = 2.0
# It takes a second to notice that company is gone.
_BEGINNING_SECONDS = 1.5
_ROUNDS = 5


def main() -> None:
    """Print each way's pace alone, beside one busy process, and beside one per core."""
    num_cores = len(os.sched_getaffinity(0))
    companies = {"alone": 0, "beside_one": 1, "beside_one_per_core": num_cores}
    for model in _MODELS:
        for work in _WORK:
            found = _measure(work, model, sorted(set(companies.values())))
            quiet = {way: found[way, 0] for way in _WAYS}
            for way in _WAYS:
                name = f"contention/{work}/{model}/{way}"
                if way != "plain":
                    show(f"{name}/alone", quiet[way] / quiet["plain"], "ratio", peer="plain alone")
                for company, num_busy in list(companies.items())[1:]:
                    pace = found[way, num_busy] / quiet["plain"]
                    show(f"{name}/{company}", pace, "ratio", peer="plain alone")


def _measure(work: str, model: str, numbers_of_busy: list[int]) -> dict[tuple[str, int], float]:
    """Return the median tokens per second by way and number of busy processes."""
    unset = ("OMP_", "GOMP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    found: dict[tuple[str, int], list[float]] = {}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_contention", work, model]
    runners = {
        way: subprocess.Popen(
            command,
            env=clean | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for way, settings in _WAYS.items()
    }
    try:
        for runner in runners.values():
            _turn(runner, 0.5)
        for _ in range(_ROUNDS):
            for num_busy in numbers_of_busy:
                busy = [_busy_process() for _ in range(num_busy)]
                for way, runner in runners.items():
                    found.setdefault((way, num_busy), []).append(_turn(runner, _TURN_SECONDS))
                for process in busy:
                    process.kill()
                    process.wait()
    finally:
        for runner in runners.values():
            runner.kill()
            runner.wait()
    return {key: statistics.median(paces) for key, paces in found.items()}


def _busy_process() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def _turn(runner: "subprocess.Popen[str]", seconds: float) -> float:
    """Let a runner work, and then for some seconds more; return the tokens per second of these."""
    assert runner.stdin
    assert runner.stdout
    runner.stdin.write(f"{_BEGINNING_SECONDS}\n{seconds}\n")
    runner.stdin.flush()
    runner.stdout.readline()
    return float(runner.stdout.readline())


def _turns(tell: Callable[[float], None]) -> Iterator[None]:
    """Take what is done as turns: ``send`` tokens after each piece; it waits between turns."""
    for line in sys.stdin:
        started, num_tokens = time.monotonic(), 0
        while time.monotonic() - started < float(line):
            num_tokens += yield  # type: ignore[misc]
        tell(num_tokens / (time.monotonic() - started))
    sys.exit()


def run(work: str, name: str, tell: Callable[[float], None]) -> None:
    """Train or score until standard input ends, in the turns that it asks for."""
    width, num_layers = _MODELS[name]
    model = gpt_neox(
        width=width,
        num_layers=num_layers,
        num_heads=width // 32,
        vocab_size=_VOCABULARY,
        max_positions=256,
    )
    turns: Any = _turns(tell)
    next(turns)
    (_train if work == "training" else _score)(model, turns)


def _train(model: Any, turns: Any) -> None:
    from transformers import TrainerCallback

    from mdel_assets.experiment.fields import Optimization
    from mdel_assets.training.optimize import optimize

    class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.send(_BLOCK_SIZE * _BATCH_SIZE)

    draw = np.random.default_rng(0)
    shape = (_BATCH_SIZE * 1000, _BLOCK_SIZE)
    blocks = np.minimum(draw.zipf(1.2, shape), _VOCABULARY - 1).astype(np.int32)
    settings = Optimization(
        block_size=_BLOCK_SIZE,
        batch_size=_BATCH_SIZE,
        num_tokens=100 * blocks.size,
        save_steps=10**9,
        logging_steps=10**6,
    )
    with tempfile.TemporaryDirectory() as folder:
        optimize(model, blocks, settings, work_folder=Path(folder), callbacks=[Turns()])


def _score(model: Any, turns: Any) -> None:
    from mdel_assets.scoring.log_probabilities import Scorer

    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(6.2, 1.0, 100), 1, 8000).astype(int)
    documents = [draw.integers(1, _VOCABULARY, length).tolist() for length in lengths]
    with Scorer([model.eval()]) as scorer:
        while True:
            for first in range(0, len(documents), 10):
                some = documents[first : first + 10]
                scorer.score(some, prefix=0, max_length=_BLOCK_SIZE)
                turns.send(sum(map(len, some)))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], lambda pace: print(pace, flush=True))  # noqa: T201
