"""Training and scoring on a GPU, against the plain Trainer and lm-evaluation-harness's loop.

Models have Pythia's shapes and random weights; blocks and documents are random tokens. Every way
runs in this process on a fresh model, some steps unmeasured first. A share of the peak counts the
operations that the job needs, whoever makes more. Our layers are compiled where blocks are long, as
in any run that is long enough for it. Without a GPU a small form runs on the processor. It takes
torch 2.11 or later and no network; about six minutes on an H200.
"""

import dataclasses
import functools
import gc
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import show
from benchmarks.gpu_checks import check_agreement, check_resume
from benchmarks.models import gpt_neox
from mdel_assets.training import compiled_layers

# Dense bfloat16 operations per second, as the vendor gives them, by a part of the device's name.
_PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A GPT-NeoX model, and which of its layers an expert trains."""

    name: str
    num_layers: int
    width: int
    num_heads: int
    trained: range
    vocab_size: int = 50304

    def model(self) -> Any:
        """Return the model with random weights in fp32, on the GPU where there is one."""
        import torch

        with torch.device(device_name()):
            return gpt_neox(
                width=self.width,
                num_layers=self.num_layers,
                num_heads=self.num_heads,
                vocab_size=self.vocab_size,
            )

    def training_operations(self, block_size: int) -> float:
        """Return the needed operations for a token of training, attention causal.

        Forward through everything; back to the inputs of all that lies above the first trained
        layer, it included; to the weights of trained layers.
        """
        backward = self.num_layers - self.trained[0]
        products = 2 * 12 * self.width**2
        attention = 2 * block_size * self.width
        layers = (self.num_layers + backward + len(self.trained)) * products
        output = 2 * 2 * self.width * self.vocab_size
        return layers + (self.num_layers + 2 * backward) * attention + output

    def scoring_operations(self, context: float) -> float:
        """Return the needed operations to score a token with ``context`` tokens before it."""
        layer = 2 * 12 * self.width**2 + 4 * context * self.width
        return self.num_layers * layer + 2 * self.width * self.vocab_size


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained and scored at one size; ``is_long`` as if for many thousands of steps."""

    shape: Shape
    block_size: int
    batch_size: int
    num_steps: int
    num_documents: int = 0
    is_long: bool = False


_JOBS = (
    Job(Shape("pythia-1b", 16, 2048, 8, range(9, 14)), 2048, 16, 12, 600, is_long=True),
    Job(Shape("pythia-1b", 16, 2048, 8, range(9, 14)), 512, 8, 60),
    Job(Shape("pythia-410m", 24, 1024, 16, range(13, 21)), 2048, 16, 16, 600, is_long=True),
)
_SMALL = (Job(Shape("small", 4, 128, 4, range(2, 4), vocab_size=2048), 64, 4, 4, 8),)
_WARM_UP_STEPS = 4
_MAX_LENGTH = 2048
_HARNESS_BATCH = 16


def main() -> None:
    """Print what this machine reaches, then the checks of what it computes."""
    import torch

    has_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if has_gpu else "processor"
    print(f"# {name}, torch {torch.__version__}", flush=True)  # noqa: T201
    reached = _product_rate(8192 if has_gpu else 512)
    peak = next((peak for part, peak in _PEAKS.items() if part in name), reached)
    show("gpu/product", reached / 1e12, "TFLOP/s")
    for check in (check_agreement, check_resume):
        _attempt(check)
    worth = compiled_layers.WORTH_COMPILING
    for job in _JOBS if has_gpu else _SMALL:
        compiled_layers.WORTH_COMPILING = 0.0 if job.is_long else worth
        _show_training(job, peak)
        if job.num_documents:
            _show_scoring(job, peak)


def device_name() -> str:
    """Return where models go."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _attempt(measure: Callable[[], Any]) -> Any:
    """Return what ``measure`` gives, or None with its error printed: the rest is worth having."""
    import torch

    try:
        return measure()
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return None
    finally:
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _product_rate(size: int) -> float:
    """Return the operations per second of one large product in bfloat16."""
    import torch

    first, second = (
        torch.randn(size, size, device=device_name(), dtype=torch.bfloat16) for _ in range(2)
    )
    for _ in range(3):
        first @ second
    started = now()
    for _ in range(10):
        first @ second
    return 10 * 2 * size**3 / (now() - started)


def now() -> float:
    """Return the time when the device has done all that it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def peak_memory() -> float:
    """Return the most MiB that tensors took on the device; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


# Training.


def _show_training(job: Job, peak: float) -> None:
    ways: dict[str, Callable[..., tuple[float, float]]] = {
        "ours": train_ours,
        "plain": _train_plainly,
        "plain_compiled": functools.partial(_train_plainly, is_compiled=True),
    }
    tokens = (job.num_steps - _WARM_UP_STEPS or 1) * job.batch_size * job.block_size
    operations = job.shape.training_operations(job.block_size)
    found: dict[str, float] = {}
    for way, train in ways.items():
        done = _attempt(functools.partial(_measured, train, job))
        if done is None:
            continue
        seconds, loss, memory = done
        name = f"gpu/training/{job.shape.name}/{job.batch_size}x{job.block_size}/{way}"
        found[way] = seconds
        show(f"{name}/pace", tokens / seconds, "tokens/s")
        show(f"{name}/peak", tokens * operations / seconds / peak, "share of the peak")
        show(f"{name}/loss", loss, "nats")
        show(f"{name}/peak_memory", memory, "MiB")
        if way.startswith("plain") and "ours" in found:
            show(f"{name}/speed", seconds / found["ours"], "ratio", peer="ours")


def _measured(train: Callable[..., tuple[float, float]], job: Job) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        model = job.shape.model()
        for name, parameter in model.named_parameters():
            trained = any(f".layers.{layer}." in name for layer in job.shape.trained)
            parameter.requires_grad_(trained)
        draw = np.random.default_rng(0)
        blocks = np.minimum(
            draw.zipf(1.2, (job.num_steps * job.batch_size, job.block_size)),
            job.shape.vocab_size - 1,
        )
        seconds, loss = train(model, blocks.astype(np.int32), job, Path(folder))
        return seconds, loss, peak_memory()


def train_ours(model: Any, blocks: Any, job: Job, folder: Path) -> tuple[float, float]:
    """Train as an expert is trained; return seconds and the mean loss of all steps."""
    from mdel_assets.experiment.fields import Optimization
    from mdel_assets.training.optimize import optimize

    settings = Optimization(
        block_size=job.block_size,
        batch_size=job.batch_size,
        num_tokens=blocks.size,
        dtype="bfloat16",
        lr_schedule="constant_with_warmup",
        warmup_ratio=0.0,
        save_steps=10**9,
        logging_steps=job.num_steps,
    )
    clock = _Clock(job, last=job.num_steps)
    first = job.shape.trained[0]
    optimize(
        model, blocks, settings, work_folder=folder, first_trained=first, callbacks=[clock.callback]
    )
    return clock.seconds, clock.loss


def _train_plainly(
    model: Any, blocks: Any, job: Job, folder: Path, *, is_compiled: bool = False
) -> tuple[float, float]:
    import torch
    from transformers import Trainer, TrainingArguments

    from mdel_assets.training.packing import schedule

    order = schedule(len(blocks), num_samples=len(blocks), seed=0)
    rows = [torch.from_numpy(blocks[block].astype(np.int64)) for block in order]
    clock = _Clock(job, last=job.num_steps)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=job.batch_size,
        max_steps=job.num_steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta2=0.95,
        bf16=True,
        torch_compile=is_compiled,
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        logging_steps=job.num_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = [{"input_ids": ids, "labels": ids} for ids in rows]
    Trainer(model, arguments, train_dataset=data, callbacks=[clock.callback]).train()
    return clock.seconds, clock.loss


class _Clock:
    """Times the steps of a run after the warm-up; notes the last loss logged."""

    def __init__(self, job: Job, *, last: int) -> None:
        from transformers import TrainerCallback

        self.seconds = self.loss = 0.0
        first = last - job.num_steps + min(_WARM_UP_STEPS, job.num_steps - 1)
        started = 0.0
        clock = self

        class Callback(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                nonlocal started
                if state.global_step == first:
                    started = now()
                if state.global_step == last:
                    clock.seconds = now() - started

            def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
                if "loss" in logs:
                    clock.loss = float(logs["loss"])

        self.callback = Callback()


# Scoring.


def _show_scoring(job: Job, peak: float) -> None:
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(6.8, 1.2, job.num_documents), 1, 20000).astype(int)
    words = job.shape.vocab_size
    documents = [draw.integers(1, words, length).tolist() for length in lengths]
    # What a token sees: half of its window, where the document is longer than that.
    weights = np.minimum(lengths, _MAX_LENGTH)
    context = float((weights * lengths).sum() / lengths.sum() / 2)
    operations = job.shape.scoring_operations(context) * int(lengths.sum())
    ways: dict[str, Callable[..., float]] = {"ours": score_ours, "harness": _score_with_harness}
    found: dict[str, tuple[float, float]] = {}
    for way, score in ways.items():
        done = _attempt(functools.partial(_timed_scores, score, job, documents))
        if done is None:
            continue
        seconds, nll, memory = done
        found[way] = seconds, nll
        name = f"gpu/scoring/{job.shape.name}/{way}"
        show(f"{name}/pace", int(lengths.sum()) / seconds, "tokens/s")
        show(f"{name}/peak", operations / seconds / peak, "share of the peak")
        show(f"{name}/peak_memory", memory, "MiB")
        if way != "ours" and "ours" in found:
            show(f"{name}/speed", seconds / found["ours"][0], "ratio", peer="ours")
            show(f"{name}/nll_difference", abs(nll / found["ours"][1] - 1), "ratio", peer="ours")


def _timed_scores(
    score: Callable[..., float], job: Job, documents: Sequence[list[int]]
) -> tuple[float, float, float]:
    model = job.shape.model().eval()
    score(model, documents[: max(1, len(documents) // 20)])
    started = now()
    nll = score(model, documents)
    return now() - started, nll, peak_memory()


def score_ours(model: Any, documents: Sequence[list[int]]) -> float:
    """Return the sum of negative log-likelihoods in nats, scored as a matrix is."""
    from mdel_assets.scoring.half_precision import halve_linear_layers
    from mdel_assets.scoring.log_probabilities import Scorer

    halve_linear_layers(model)
    num_tokens = sum(map(len, documents))
    with Scorer([model], dtype="bfloat16", num_tokens=num_tokens) as scorer:
        (scores,) = scorer.score(documents, prefix=0, max_length=_MAX_LENGTH)
    return -sum(float(score.sum(dtype=np.float64)) for score in scores)


def _score_with_harness(model: Any, documents: Sequence[list[int]]) -> float:
    """Let the harness's own loop run on the same windows, in bfloat16 as it loads models."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from mdel_assets.scoring.windows import rolling_windows

    windows = [
        window
        for document in documents
        for window in rolling_windows(document, prefix=0, max_length=_MAX_LENGTH)
    ]
    requests = []
    for window in windows:
        num_known = len(window.inputs) + 1 - len(window.targets)
        requests.append((("", ""), list(window.inputs[:num_known]), list(window.targets)))
    harness = HFLM(
        pretrained=model.to(torch.bfloat16),
        tokenizer=_tokenizer_of_numbers(),
        max_length=_MAX_LENGTH,
        batch_size=_HARNESS_BATCH,
        device=device_name(),
    )
    found = harness._loglikelihood_tokens(requests, disable_tqdm=True)
    return -sum(nll for nll, _ in found)


def _tokenizer_of_numbers() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    end = "<end>"
    tokenizer = Tokenizer(models.WordLevel({end: 0}, unk_token=end))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
