"""Eight experts scored together on their shared trunk, against one after the other.

The model has the proportions of Pythia-1B at a quarter of its width: 16 layers, of which the last 7
differ, and an output layer as large as two of them. Both ways are ours, in one process, in turns;
the limit is the ratio of their matrix products.
"""

import copy
import time
from typing import Any

import numpy as np

from benchmarks.figures import show
from benchmarks.models import gpt_neox
from mdel_assets.scoring.log_probabilities import (
    log_probabilities_together,
    token_log_probabilities,
)
from mdel_assets.scoring.shared_trunk import share_equal_tensors

_NUM_EXPERTS = 8
_NUM_LAYERS, _NUM_DIFFERING = 16, 7
_WIDTH, _VOCABULARY = 512, 12576
_MAX_LENGTH = 1024
_ROUNDS = 2


def main() -> None:
    """Print how many times faster together is, the limit, and the largest difference in nats."""
    models = experts()
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, _VOCABULARY, 1024).tolist() for _ in range(6)]
    options: dict[str, Any] = {"prefix": 0, "max_length": _MAX_LENGTH}
    ratios, differences = [], []
    for _ in range(_ROUNDS):
        started = time.monotonic()
        alone = [token_log_probabilities(model, documents, **options) for model in models]
        between = time.monotonic()
        together = log_probabilities_together(models, documents, **options)
        ratios.append((between - started) / (time.monotonic() - between))
        differences += [
            float(np.abs(mine - yours).max())
            for ours, theirs in zip(together, alone, strict=True)
            for mine, yours in zip(ours, theirs, strict=True)
        ]
    layer, head = 12 * _WIDTH**2, _WIDTH * _VOCABULARY
    common = (_NUM_LAYERS - _NUM_DIFFERING) * layer
    own = _NUM_DIFFERING * layer + head
    limit = _NUM_EXPERTS * (common + own) / (common + _NUM_EXPERTS * own)
    show("shared_trunk/speed", float(np.median(ratios)), "ratio", peer="one model after the other")
    show("shared_trunk/limit", limit, "ratio", peer="one model after the other")
    show("shared_trunk/difference", max(differences), "nats per token")


def experts() -> list[Any]:
    """Return eight models that share their first layers, common tensors once."""
    import torch

    seed = gpt_neox(
        width=_WIDTH, num_layers=_NUM_LAYERS, num_heads=8, vocab_size=_VOCABULARY
    ).eval()
    experts = []
    for _ in range(_NUM_EXPERTS):
        expert = copy.deepcopy(seed)
        with torch.no_grad():
            for layer in expert.gpt_neox.layers[-_NUM_DIFFERING:]:
                for tensor in layer.parameters():
                    tensor.add_(0.01 * torch.randn(tensor.shape))
        share_equal_tensors(expert, seed)
        experts.append(expert)
    return experts


if __name__ == "__main__":
    main()
