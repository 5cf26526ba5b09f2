"""The pace of this machine: a few real training steps and scoring passes, once per model's shape.

Random weights of the model's own widths run through the code that trains and scores. A large model
is measured with fewer layers, words and blocks: an operation takes about as long in each layer, and
the output layer keeps its share of them. What was found is kept under MDEL_HOME/cache/paces, by
device, shape and number of processes.

The pace is that of a quiet machine: on processors, time that threads wait for a core does not
count. A run beside other work takes longer. How quick a core is at other work than a model's is
measured anew for each plan, which takes a third of a second.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from mdel_assets.experiment.fields import Optimization
from mdel_assets.line.price import Pace
from mdel_assets.store.durable_files import write_text_atomically

_log = logging.getLogger(__name__)
# Raised when the code that is measured becomes faster or slower.
_VERSION = 2
# Operations of a measured step at most, and of all steps of a measurement about.
_STEP_OPERATIONS, _ALL_OPERATIONS = 1e11, 1.5e11
_FEWEST_STEPS, _MOST_STEPS = 4, 40
_NUM_WARM = 1
_BATCH_TOKENS = 2048
_FEWEST_WORDS = 1024
# What `_other_work` takes where the prices' seconds of other work hold. It is fitted: in one run of
# the sample, other work took 1.8 times its prices, and `_other_work` 0.0293 s.
_OTHER_WORK_SECONDS, _NUM_OTHER_WORK = 0.0163, 9


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one of ``num_processes`` processes reaches while all of them compute.

    ``operations_per_second`` are those of matrix products; ``library_bytes`` is what a process
    takes before it loads a model.
    """

    operations_per_second: float
    library_bytes: float
    num_processes: int


def measured_pace(config: Any, pace: Pace, *, num_processes: int, cache: Path) -> Measured:
    """Return the pace of this machine for models of ``config``, measured where that is not known.

    Raises:
        WorkerError: a measuring process was killed.

    """
    key = {
        "version": _VERSION,
        "device": device_name(),
        "pace": dataclasses.asdict(dataclasses.replace(pace, trained_layers=None)),
        "num_processes": num_processes,
        "config": json.loads(config.to_json_string(use_diff=True)),
    }
    text = json.dumps(key, sort_keys=True)
    path = cache / "paces" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Measured(**json.loads(path.read_text("utf-8"))["measured"])
    found = _measure(config, pace, num_processes)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"measured": dataclasses.asdict(found), **key}
    write_text_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return found


@functools.cache
def slowness() -> float:
    """Return how many times as long as prices say a core of this machine takes for other work."""
    seconds = []
    for _ in range(_NUM_OTHER_WORK):
        begun = time.process_time()
        _other_work()
        seconds.append(time.process_time() - begun)
    return _typical(seconds) / _OTHER_WORK_SECONDS


def _other_work() -> None:
    """Do some of what a run does besides computing: text, counts, JSON, compression, digests."""
    text = "".join(f"word{number * 7919 % 1000} " for number in range(60_000))
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    json.loads(json.dumps(sorted(counts.items())))
    encoded = text.encode()
    zlib.compress(encoded, 6)
    hashlib.sha256(encoded * 4).hexdigest()


def device_name() -> str:
    """Return what tells this machine from another that computes at another speed."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        named = next(line for line in lines if line.startswith("model name"))
        return f"{named.split(':', 1)[1].strip()}, {num_cores()} cores"
    return f"{platform.processor() or platform.machine()}, {num_cores()} cores"


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _measure(config: Any, pace: Pace, num_processes: int) -> Measured:
    from mdel_assets.machine.side_by_side import Work, run_side_by_side

    _log.info("measuring %s of this model's shape, for some seconds", pace.work)
    arguments = (type(config), config.to_dict(), pace)
    work = [Work(f"measurement {number + 1}", _run, arguments) for number in range(num_processes)]
    rates, library_bytes = [], 0.0
    for _, outcome in run_side_by_side(work, num_processes=num_processes):
        if outcome.error:
            raise outcome.error
        rates.append(outcome.value[0])
        library_bytes = outcome.value[1]
    return Measured(statistics.mean(rates), library_bytes, num_processes)


def _run(family: Any, content: dict[str, Any], pace: Pace) -> tuple[float, float]:
    """Return the operations per second of this process, and its memory before it has a model."""
    import psutil

    library_bytes = float(psutil.Process().memory_info().rss)
    logging.getLogger("mdel_assets").setLevel(logging.ERROR)
    config = family.from_dict(content)
    rate = _training(config, pace) if pace.work == "training" else _scoring(config, pace)
    return rate, library_bytes


def _training(config: Any, pace: Pace) -> float:
    import numpy as np

    from mdel_assets.training.model_sizes import ModelSizes, random_model
    from mdel_assets.training.optimize import optimize

    small, rows = config, pace.num_rows
    sizes = ModelSizes(small)
    if (most := _STEP_OPERATIONS / _step(sizes, rows, pace)) < 1:
        small = _smaller(config, sizes, most)
        sizes = ModelSizes(small)
        rows = max(1, int(rows * min(1.0, _STEP_OPERATIONS / _step(sizes, rows, pace))))
    operations = _step(sizes, rows, pace)
    num_steps = _num_times(operations)
    clock = _clock()
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, sizes.vocab_rows, (num_steps * rows, pace.length), np.int32)
    settings = Optimization(
        block_size=pace.length, batch_size=rows, max_steps=num_steps, dtype=pace.dtype
    )
    with tempfile.TemporaryDirectory(prefix="mdel-pace-") as folder:
        optimize(random_model(small), blocks, settings, work_folder=Path(folder), callbacks=[clock])
    return operations / _typical(clock.seconds[_NUM_WARM:])


def _step(sizes: Any, rows: int, pace: Pace) -> float:
    found: float = sizes.step(rows, length=pace.length, trained=sizes.trained(None))
    return found


def _smaller(config: Any, sizes: Any, share: float) -> Any:
    """Return a configuration with about a ``share`` of a model's layers, and of its words."""
    from mdel_assets.training.model_sizes import small_config

    num_layers = max(1, int(sizes.num_layers * share))
    words = max(_FEWEST_WORDS, sizes.vocab_rows * num_layers // sizes.num_layers)
    return small_config(config, num_layers=num_layers, vocab_size=min(words, sizes.vocab_rows))


def _num_times(operations: float) -> int:
    return max(_FEWEST_STEPS, min(_MOST_STEPS, int(_ALL_OPERATIONS / operations)))


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """The seconds of each step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._watch = _Watch()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not self.seconds:
                self._watch.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(self._watch.stop())
            self._watch.start()

    return Clock()


def _scoring(config: Any, pace: Pace) -> float:
    import numpy as np

    from mdel_assets.scoring.log_probabilities import Scorer
    from mdel_assets.training.model_sizes import ModelSizes, random_model

    small = config
    sizes = ModelSizes(small)
    tokens = max(_BATCH_TOKENS, pace.length)
    if (most := _STEP_OPERATIONS / sizes.forward(tokens, length=pace.length)) < 1:
        small = _smaller(config, sizes, most)
        sizes = ModelSizes(small)
    documents_per_batch = max(1, _BATCH_TOKENS // pace.length)
    operations = sizes.forward(documents_per_batch * pace.length, length=pace.length)
    draw = np.random.default_rng(0)
    seconds, watch = [], _Watch()
    with Scorer([random_model(small).eval()], dtype=pace.dtype) as scorer:
        for _ in range(_num_times(operations)):
            shape = (documents_per_batch, pace.length)
            documents = draw.integers(0, sizes.vocab_rows, shape).tolist()
            watch.start()
            scorer.score(documents, prefix=0, max_length=pace.length)
            seconds.append(watch.stop())
    return operations / _typical(seconds[_NUM_WARM:])


def _typical(seconds: list[float]) -> float:
    """Return the first quartile: what disturbs a step makes it longer, never shorter."""
    return sorted(seconds)[len(seconds) // 4]


class _Watch:
    """The seconds that something takes on cores that nothing else uses."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._begun, self._worked = time.perf_counter(), time.process_time()

    def stop(self) -> float:
        """Return the seconds since the start, without those that threads waited for a core."""
        import torch

        passed = time.perf_counter() - self._begun
        worked = (time.process_time() - self._worked) / torch.get_num_threads()
        return passed if torch.cuda.is_available() else min(passed, worked)
