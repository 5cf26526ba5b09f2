"""One text under way: its tokens, what comes next, and what is kept of it."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mdel_assets.evaluation.ensemble import Array
from mdel_assets.generation.weighing import Weighing

if TYPE_CHECKING:
    import torch

    from mdel_assets.generation.networks import HeldSequence

# Shapes in names: E experts, V vocabulary.


@dataclasses.dataclass(frozen=True)
class TokenScore:
    """A token of the prompt, its log-probability, and the likeliest tokens in its place."""

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...]


class TokenSequence:
    """A prompt and its continuation, made by `Speaker.begin`.

    ``tokens`` are the prompt's and those appended; ``prompt_scores`` there are only where they were
    asked for. ``log_probabilities_V`` and ``weights_E`` are of the next token, once the prompt is
    read.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        number: int,
        held: "HeldSequence",
        weighing: Weighing,
        max_tokens: int | None,
        num_top: int | None,
    ) -> None:
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.number = number
        self.held = held
        self.weighing = weighing
        self.num_top = num_top
        self.prompt_scores: list[TokenScore] | None = None if num_top is None else []
        self._max_tokens = max_tokens
        self._log_weights_E: Array | None = None
        self._log_p_V: torch.Tensor | None = None
        self.expert_log_p_EV: torch.Tensor | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all of the prompt is read."""
        return self._log_p_V is not None

    @property
    def has_room(self) -> bool:
        """Whether another token can be appended within the model's context."""
        return self._max_tokens is None or len(self.tokens) < self._max_tokens

    @property
    def log_probabilities_V(self) -> "torch.Tensor":  # noqa: N802
        """The (V,) natural log-probabilities of the next token, fp32."""
        assert self._log_p_V is not None, "the prompt has not been read"
        return self._log_p_V

    @property
    def weights_E(self) -> Array:  # noqa: N802
        """The (E,) weights of the experts for the next token; they sum to one."""
        assert self._log_weights_E is not None, "the prompt has not been read"
        weights_E: Array = np.exp(self._log_weights_E)
        return weights_E

    def expect(
        self, log_p_V: "torch.Tensor", log_weights_E: Array, expert_log_p_EV: "torch.Tensor"
    ) -> None:
        """Set what the next token's distribution is, together and by expert."""
        self._log_p_V = log_p_V
        self._log_weights_E = log_weights_E
        self.expert_log_p_EV = expert_log_p_EV
