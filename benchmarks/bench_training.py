"""Training four of twelve layers, against the plain way, and against what the processor can do.

The model has Pythia-160m's shape and random weights; layers 7 to 10 are trained on blocks of 512
tokens drawn from a Zipf distribution, 8 to a step. The plain way is transformers' Trainer in fp32,
a micro-batch of 1 and 8 accumulated. Both see the same blocks in the same order.
"""

import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import show
from benchmarks.models import gpt_neox

_LAYERS = (7, 8, 9, 10)
_NUM_LAYERS, _WIDTH, _VOCABULARY = 12, 768, 50304
_BLOCK_SIZE, _BATCH_SIZE = 512, 8
_NUM_STEPS = 4
_ROUNDS = 2
_WAYS = ("plain", "ours-float32", "ours-bfloat16", "ours-bfloat16-kept")
_LIMITS = {"ours-float32": "limit-float32", "ours-bfloat16": "limit-bfloat16"}


def main() -> None:
    """Print tokens per second as ratios, the difference of losses, and the share of the limit."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(_ROUNDS):
        for way in (*_WAYS, *_LIMITS.values()):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_training", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, peak, loss = map(float, done.stdout.split()[-3:])
            found.setdefault(way, []).append((seconds, peak, loss))
    best = {way: min(runs) for way, runs in found.items()}
    for way in _WAYS[1:]:
        show(f"training/{way}/speed", best["plain"][0] / best[way][0], "ratio", peer="plain")
        show(f"training/{way}/loss", best[way][2] / best["plain"][2], "ratio", peer="plain")
    for way, limit in _LIMITS.items():
        share = best[limit][0] / best[way][0]
        show(f"training/{way}/limit", share, "ratio", peer="its matrix products alone")
    for way in _WAYS:
        show(f"training/{way}/peak_memory", best[way][1], "MiB")


def run(way: str) -> tuple[float, float]:
    """Train in one way; return the seconds of `_NUM_STEPS` steps and the last step's loss."""
    model = gpt_neox(width=_WIDTH, num_layers=_NUM_LAYERS, num_heads=12, vocab_size=_VOCABULARY)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(f".layers.{layer}." in name for layer in _LAYERS))
    draw = np.random.default_rng(0)
    shape = (_NUM_STEPS * _BATCH_SIZE, _BLOCK_SIZE)
    blocks = np.minimum(draw.zipf(1.2, shape), _VOCABULARY - 1).astype(np.int32)
    ways = {
        "plain": _plain,
        "ours-float32": _ours,
        "ours-bfloat16": functools.partial(_ours, dtype="bfloat16"),
        "ours-bfloat16-kept": functools.partial(_ours, dtype="bfloat16", is_kept=True),
        "limit-float32": _limit,
        "limit-bfloat16": functools.partial(_limit, dtype="bfloat16"),
    }
    with tempfile.TemporaryDirectory() as folder:
        return ways[way](model, blocks, Path(folder))  # type: ignore[no-any-return]


def _ours(
    model: Any, blocks: Any, folder: Path, *, dtype: str = "float32", is_kept: bool = False
) -> tuple[float, float]:
    from mdel_assets.experiment.fields import Optimization
    from mdel_assets.training.optimize import optimize

    num_epochs = 2 if is_kept else 1
    settings = Optimization(
        block_size=_BLOCK_SIZE,
        batch_size=_BATCH_SIZE,
        num_tokens=num_epochs * blocks.size,
        dtype=dtype,
        lr_schedule="constant_with_warmup",
        warmup_ratio=0.0,
        # Neither way saves: the plain one would save the whole model.
        save_steps=10**9,
        logging_steps=1,
    )
    clock = _Clock(last=_NUM_STEPS * num_epochs)
    optimize(
        model, blocks, settings, work_folder=folder, first_trained=_LAYERS[0], callbacks=[clock()]
    )
    return clock.seconds, clock.loss


def _plain(model: Any, blocks: Any, folder: Path) -> tuple[float, float]:
    import torch
    from transformers import Trainer, TrainingArguments

    from mdel_assets.training.packing import schedule

    order = schedule(len(blocks), num_samples=len(blocks), seed=0)
    rows = [torch.from_numpy(blocks[block].astype(np.int64)) for block in order]
    clock = _Clock(last=_NUM_STEPS)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=_BATCH_SIZE,
        max_steps=_NUM_STEPS,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta2=0.95,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = [{"input_ids": ids, "labels": ids} for ids in rows]
    Trainer(model, arguments, train_dataset=data, callbacks=[clock()]).train()
    return clock.seconds, clock.loss


class _Clock:
    """Times the last `_NUM_STEPS` - 1 steps of a run and notes the loss of the `_NUM_STEPS`th."""

    def __init__(self, *, last: int) -> None:
        self.last = last
        self.started = self.seconds = self.loss = 0.0

    def __call__(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Callback(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == clock.last - _NUM_STEPS + 1:
                    clock.started = time.monotonic()
                if state.global_step == clock.last:
                    clock.seconds = time.monotonic() - clock.started

            def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
                if state.global_step == _NUM_STEPS and "loss" in logs:
                    clock.loss = float(logs["loss"])

        return Callback()


def _limit(model: Any, blocks: Any, folder: Path, *, dtype: str = "float32") -> tuple[float, float]:
    """Time the matrix products of one step's forward and needed backward, times the steps timed."""
    import torch

    del folder, blocks
    model.to(getattr(torch, dtype))
    tokens = _BATCH_SIZE * _BLOCK_SIZE
    jobs = [("embed_out" if "lm_head" in n else n, w) for n, w in model.named_parameters()]
    started = time.monotonic()
    with torch.inference_mode():
        for name, weight in jobs:
            if weight.dim() != 2 or "embed_in" in name:
                continue
            layer = int(name.split(".layers.")[1].split(".")[0]) if ".layers." in name else 99
            rows_in = torch.ones((tokens, weight.shape[1]), dtype=weight.dtype)
            for tile in weight.split(4096):
                torch.mm(rows_in, tile.T)
                # Back through the layer: to its input above the first trained one, and to its
                # weight where it is trained.
                errors = torch.ones((tokens, len(tile)), dtype=weight.dtype)
                if layer > _LAYERS[0]:
                    torch.mm(errors, tile)
                if layer in _LAYERS:
                    torch.mm(errors.T, rows_in)
    return (time.monotonic() - started) * (_NUM_STEPS - 1), 0.0


if __name__ == "__main__":
    import resource

    seconds, loss = run(sys.argv[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(seconds, peak, loss)  # noqa: T201
