"""What a GPU computes, beside what the processor computes from the same weights and texts."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import show
from benchmarks.models import gpt_neox

_VOCABULARY, _WIDTH, _NUM_LAYERS, _FIRST_TRAINED = 4096, 256, 4, 2
_BLOCK_SIZE, _BATCH_SIZE, _NUM_STEPS = 256, 8, 20


def check_agreement() -> None:
    """Print how far scores and losses of this machine's GPU lie from its processor's."""
    import torch

    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu", "cpu")
    weights = _trained_weights()
    draw = np.random.default_rng(1)
    lengths = draw.integers(1, 1500, 40)
    documents = [_words(draw, length).tolist() for length in lengths]
    here = _scores(weights, documents, devices[0], "float32")
    for dtype in ("float32", "bfloat16"):
        there = _scores(weights, documents, devices[1], dtype)
        show(f"gpu/agreement/{dtype}/token", float(np.abs(there - here).max()), "nats")
        mean = abs(float(there.mean(dtype=np.float64) / here.mean(dtype=np.float64)) - 1)
        show(f"gpu/agreement/{dtype}/mean", mean, "ratio", peer="the processor's, fp32")
    processor = _curve_of_processor(weights)
    for dtype in ("float32", "bfloat16"):
        curve = _curve(weights, devices[1], dtype)
        largest = float(np.abs(curve / processor - 1).max())
        show(f"gpu/agreement/{dtype}/losses", largest, "ratio", peer="the processor's, fp32")


def check_resume() -> None:
    """Print how far a training that was stopped and went on ends from one that was not."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = _trained_weights()
    whole = _train(weights, device, "bfloat16")
    again = _train(weights, device, "bfloat16")
    stopped = _train(weights, device, "bfloat16", stops_at=_NUM_STEPS // 2)
    for name, other in (("same_again", again), ("resumed", stopped)):
        largest = max(float((whole[key] - other[key]).abs().max()) for key in whole)
        show(f"gpu/{name}/difference", largest, "largest of the trained weights")


def _words(draw: Any, shape: Any) -> Any:
    """Return words as frequent as in a language, each of which tells something about the next."""
    words = np.minimum(draw.zipf(1.3, shape), _VOCABULARY - 1).astype(np.int32)
    words[..., 1::2] = (words[..., 0::2][..., : words[..., 1::2].shape[-1]] * 7 + 1) % _VOCABULARY
    return words


def _model(weights: Any, device: str) -> Any:

    model = gpt_neox(width=_WIDTH, num_layers=_NUM_LAYERS, num_heads=4, vocab_size=_VOCABULARY)
    if weights is not None:
        model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        layers = range(_FIRST_TRAINED, _NUM_LAYERS)
        parameter.requires_grad_(any(f".layers.{layer}." in name for layer in layers))
    return model.to(device)


def _trained_weights() -> dict[str, Any]:
    """Return weights that have learned something: random ones give every word much the same."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _model(None, device).requires_grad_(True)  # noqa: FBT003  (torch's own way)
    steps = torch.optim.AdamW(model.parameters(), lr=2e-3)
    draw = np.random.default_rng(0)
    for _ in range(60):
        ids = torch.from_numpy(_words(draw, (16, 128)).astype(np.int64)).to(device)
        model(input_ids=ids, labels=ids).loss.backward()
        steps.step()
        steps.zero_grad()
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def _scores(weights: Any, documents: list[list[int]], device: str, dtype: str) -> Any:
    from mdel_assets.scoring.half_precision import halve_linear_layers
    from mdel_assets.scoring.log_probabilities import Scorer

    model = _model(weights, device).eval()
    if dtype == "bfloat16":
        halve_linear_layers(model)
    with Scorer([model], dtype=dtype) as scorer:
        (scores,) = scorer.score(documents, prefix=0, max_length=512)
    return np.concatenate(scores)


def _curve_of_processor(weights: Any) -> Any:
    """Return the losses of a process that sees no GPU: the Trainer takes one that it sees."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights, f"{folder}/weights.pt")
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_checks", folder]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return np.load(f"{folder}/losses.npy")


def _curve(weights: Any, device: str, dtype: str) -> Any:
    from transformers import TrainerCallback

    losses = []

    class Callback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    _train(weights, device, dtype, callbacks=[Callback()])
    return np.array(losses)


def _train(
    weights: Any, device: str, dtype: str, *, callbacks: Any = (), stops_at: int | None = None
) -> dict[str, Any]:
    """Return the trained tensors; with ``stops_at`` those of a run that stopped and went on."""
    from mdel_assets.errors import TrainingInterruptedError
    from mdel_assets.experiment.fields import Optimization
    from mdel_assets.line.conditions import Conditions
    from mdel_assets.training.optimize import optimize

    blocks = _words(np.random.default_rng(2), (_NUM_STEPS * _BATCH_SIZE // 2, _BLOCK_SIZE))
    settings = Optimization(
        block_size=_BLOCK_SIZE,
        batch_size=_BATCH_SIZE,
        max_steps=_NUM_STEPS,
        learning_rate=1e-3,
        dtype=dtype,
        save_steps=stops_at or 10**9,
        logging_steps=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"work_folder": Path(folder), "first_trained": _FIRST_TRAINED}
        if stops_at:
            try:
                optimize(
                    _model(weights, device),
                    blocks,
                    settings,
                    conditions=Conditions(max_seconds=0.0),
                    **options,
                )
            except TrainingInterruptedError as stopped:
                print(f"# {stopped}")  # noqa: T201
        done = optimize(_model(weights, device), blocks, settings, callbacks=callbacks, **options)
    return done.tensors


if __name__ == "__main__":
    import torch

    given = torch.load(f"{sys.argv[1]}/weights.pt")
    np.save(f"{sys.argv[1]}/losses.npy", _curve(given, "cpu", "float32"))
