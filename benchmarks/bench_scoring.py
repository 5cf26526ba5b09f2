"""Scoring documents, against lm-evaluation-harness, the Trainer, and what the processor can do.

The model has Pythia-70m's shape and random weights; documents have random tokens and the lengths of
a web corpus. The plain way is the best of the usual ones: windows sorted by length, batches of 8,
all logits, a log-softmax in fp32, the targets picked. The harness runs as it is, batches of 8; the
Trainer pads batches of 8 and returns a loss.
"""

import functools
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.figures import show
from benchmarks.models import gpt_neox
from mdel_assets.scoring.half_precision import halve_linear_layers
from mdel_assets.scoring.log_probabilities import Scorer
from mdel_assets.scoring.windows import rolling_windows

_MAX_LENGTH = 1024
_NUM_DOCUMENTS = 24
_BATCH_SIZE = 8
_ROUNDS = 2
_WAYS = ("ours", "ours-bfloat16", "harness", "plain", "trainer")
_LIMITS = {"ours": "limit", "ours-bfloat16": "limit-bfloat16"}


def main() -> None:
    """Print tokens per second as ratios, memory, and the share of the processor's limit."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(_ROUNDS):
        for way in (*_WAYS, *_LIMITS.values()):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_scoring", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, peak, figure = map(float, done.stdout.split()[-3:])
            found.setdefault(way, []).append((seconds, peak, figure))
    best = {way: min(runs) for way, runs in found.items()}
    for way in ("ours", "ours-bfloat16"):
        for peer in ("harness", "plain"):
            difference = abs(best[way][2] / best[peer][2] - 1)
            show(f"scoring/{way}/nll_difference", difference, "ratio", peer=peer)
        for peer in ("harness", "plain", "trainer"):
            show(f"scoring/{way}/speed", best[peer][0] / best[way][0], "ratio", peer=peer)
        limit = best[_LIMITS[way]][0] / best[way][0]
        show(f"scoring/{way}/limit", limit, "ratio", peer="its matrix products alone")
    for way in _WAYS:
        show(f"scoring/{way}/peak_memory", best[way][1], "MiB")


def run(way: str) -> tuple[float, float]:
    """Score in one way; return seconds and the sum of negative log-likelihoods in nats."""
    model = gpt_neox(width=512, num_layers=6, num_heads=8, vocab_size=50304).eval()
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(6.2, 1.0, _NUM_DOCUMENTS), 1, 8000).astype(int)
    documents = [draw.integers(1, 50277, length).tolist() for length in lengths]
    ways = {
        "ours": _ours,
        "ours-bfloat16": functools.partial(_ours, dtype="bfloat16"),
        "harness": _harness,
        "plain": _plain,
        "trainer": _trainer,
        "limit": _limit,
        "limit-bfloat16": functools.partial(_limit, dtype="bfloat16"),
    }
    started = time.monotonic()
    nll = ways[way](model, documents)
    return time.monotonic() - started, nll


def _ours(model: Any, documents: list[list[int]], *, dtype: str = "float32") -> float:
    if dtype == "bfloat16":
        halve_linear_layers(model)
    with Scorer([model], dtype=dtype) as scorer:
        (scores,) = scorer.score(documents, prefix=0, max_length=_MAX_LENGTH)
    return -sum(float(score.sum(dtype=np.float64)) for score in scores)


def _harness(model: Any, documents: list[list[int]]) -> float:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=model,
        tokenizer=_tokenizer_of_numbers(),
        max_length=_MAX_LENGTH,
        batch_size=_BATCH_SIZE,
        device="cpu",
    )
    requests = [
        Instance("loglikelihood_rolling", {}, (" ".join(map(str, document)),), 0)
        for document in documents
    ]
    return -sum(harness.loglikelihood_rolling(requests, disable_tqdm=True))


def _tokenizer_of_numbers() -> Any:
    """Return a tokenizer whose text is the token ids in decimal."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    end = "<end>"
    words = {end: 0} | {str(number): number for number in range(1, 50277)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def _windows(documents: list[list[int]]) -> list[Any]:
    found = [w for d in documents for w in rolling_windows(d, prefix=0, max_length=_MAX_LENGTH)]
    return sorted(found, key=lambda window: -len(window.inputs))


def _plain(model: Any, documents: list[list[int]]) -> float:
    import torch

    total = 0.0
    windows = _windows(documents)
    for first in range(0, len(windows), _BATCH_SIZE):
        batch = windows[first : first + _BATCH_SIZE]
        ids = torch.zeros((len(batch), len(batch[0].inputs)), dtype=torch.int64)
        for row, window in enumerate(batch):
            ids[row, : len(window.inputs)] = torch.tensor(window.inputs)
        with torch.no_grad():
            logits = model(ids).logits
        log_p = torch.nn.functional.log_softmax(logits, dim=-1, dtype=torch.float32)
        for row, window in enumerate(batch):
            end, count = len(window.inputs), len(window.targets)
            own = log_p[row, end - count : end]
            total -= own.gather(1, torch.tensor(window.targets)[:, None]).double().sum().item()
    return total


def _trainer(model: Any, documents: list[list[int]]) -> float:
    import tempfile

    from transformers import DataCollatorForSeq2Seq, Trainer
    from transformers import TrainingArguments as Arguments

    rows = []
    for window in _windows(documents):
        context = len(window.inputs) + 1 - len(window.targets)
        ids = [*window.inputs, window.targets[-1]]
        rows.append({"input_ids": ids, "labels": [-100] * context + ids[context:]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = Arguments(
            folder, per_device_eval_batch_size=_BATCH_SIZE, report_to=[], disable_tqdm=True
        )
        collator = DataCollatorForSeq2Seq(_tokenizer_of_numbers())
        trainer = Trainer(model, arguments, data_collator=collator, eval_dataset=rows)
        # The mean of the batches' means: what the Trainer gives, and not the corpus's likelihood.
        return float(trainer.evaluate()["eval_loss"])


def _limit(model: Any, documents: list[list[int]], *, dtype: str = "float32") -> float:
    """Run the matrix products of all tokens, and nothing else."""
    import torch

    model.to(getattr(torch, dtype))
    num_tokens = sum(len(window.inputs) for window in _windows(documents))
    weights = [w for name, w in model.named_parameters() if w.dim() == 2 and "embed_in" not in name]
    with torch.inference_mode():
        for first in range(0, num_tokens, 8192):
            rows = min(8192, num_tokens - first)
            for weight in weights:
                inputs = torch.ones((rows, weight.shape[1]), dtype=weight.dtype)
                for tile in weight.split(4096):
                    torch.mm(inputs, tile.T)
    return 0.0


if __name__ == "__main__":
    import resource

    seconds, nll = run(sys.argv[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(seconds, peak, nll)  # noqa: T201
