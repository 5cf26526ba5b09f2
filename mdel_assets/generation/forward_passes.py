"""Forward passes over rows of keys and values, of a model or of layers that models share."""

import enum
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from mdel_assets.generation.cached_rows import Row, together
from mdel_assets.scoring.shared_trunk import SharedTrunk
from mdel_assets.training.layers import text_config

# Shapes in names: B sequences, T tokens fed in, C columns of keys and values, D width.


class Manner(enum.Enum):
    """How the sequences of a family of models can be continued, the quickest first.

    ``ALONE`` keeps what the family's own cache keeps, such as a recurrent state.
    """

    TOGETHER = "together"
    ALONE = "one sequence after the other"
    ANEW = "one sequence after the other, and each from its beginning for every token"


class DecodingTrunk(SharedTrunk):
    """First layers that several models have in common, with keys and values of their own."""

    def forward(self, ids_BT: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the (B, T, D) hidden states behind the shared layers."""
        self._run(ids_BT, **options)
        found: torch.Tensor = self._output
        return found

    def recall(self, states_BTD: torch.Tensor | None) -> None:
        """Let the models' next forward pass go on from what `forward` gave for its ids."""
        self._output = states_BTD


class ForwardPass:
    """A forward pass, of a model or of the trunk, over rows of keys and values."""

    def __init__(
        self, config: Any, forward: Callable[..., torch.Tensor], *, takes: Any, manner: Manner
    ) -> None:
        self._forward = forward
        self._config = config
        self._manner = manner
        self._takes = set(inspect.signature(type(takes).forward).parameters)
        self._cache_name = "cache_params" if "cache_params" in self._takes else "past_key_values"

    @classmethod
    def of_model(cls, model: Any, manner: Manner) -> "ForwardPass":
        """Return a model's passes, which give (B, T, V) logits."""

        def forward(ids_BT: torch.Tensor, **options: Any) -> torch.Tensor:
            found: torch.Tensor = model(input_ids=ids_BT, **options).logits
            return found

        return cls(model.config, forward, takes=model, manner=manner)

    @classmethod
    def of_trunk(cls, trunk: DecodingTrunk, manner: Manner) -> "ForwardPass":
        """Return the passes of shared layers, which give (B, T, D) hidden states."""
        model = trunk.models[0]
        return cls(model.config, trunk.forward, takes=model.base_model, manner=manner)

    def run(self, rows: Sequence[Row], ids_BT: torch.Tensor, num_last: int = 1) -> torch.Tensor:
        """Return what is given for the next T ids of each row, at the last positions at least."""
        num_tokens, device = ids_BT.shape[1], ids_BT.device
        lengths_B1 = torch.tensor([[row.length] for row in rows], device=device)
        options: dict[str, Any] = {}
        if "position_ids" in self._takes:
            options["position_ids"] = lengths_B1 + torch.arange(num_tokens, device=device)
        if "logits_to_keep" in self._takes:
            options["logits_to_keep"] = num_last
        if self._manner is Manner.TOGETHER:
            num_layers = text_config(self._config).num_hidden_layers
            held: Any = together(rows, num_layers=num_layers)
            if any(row.length < held.num_columns for row in rows):
                columns_C = torch.arange(held.num_columns + num_tokens, device=device)
                options["attention_mask"] = (columns_C >= held.num_columns - lengths_B1).long()
        else:
            (row,) = rows
            held = row.own_cache = row.own_cache or DynamicCache(config=self._config)
        options |= {self._cache_name: held, "use_cache": True}
        found = self._forward(ids_BT, **options)
        if self._manner is Manner.TOGETHER:
            held.num_columns += num_tokens
        for row in rows:
            row.length += num_tokens
        return found
