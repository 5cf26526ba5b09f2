"""Forward passes over rows of keys and values, of a model or of layers that models share."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class NewIds:
    """The next ids of B sequences: the last ``lengths_B`` of each row, padding before them."""

    ids_BT: torch.Tensor
    lengths_B: tuple[int, ...]

    @classmethod
    def padded(cls, ids: Sequence[Sequence[int]], *, device: torch.device) -> "NewIds":
        """Return the ids of sequences, padded to the longest."""
        lengths_B = tuple(map(len, ids))
        rows = [[0] * (max(lengths_B) - len(each)) + list(each) for each in ids]
        return cls(torch.tensor(rows, dtype=torch.int64, device=device), lengths_B)

    def of(self, members: Sequence[int]) -> "NewIds":
        """Return those of some of the sequences."""
        if len(members) == len(self.lengths_B):
            return self
        return NewIds(self.ids_BT[members], tuple(self.lengths_B[b] for b in members))


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

    def run(self, rows: Sequence[Row], new: NewIds, num_last: int = 1) -> torch.Tensor:
        """Return what is given for the next T ids of each row, at the last positions at least.

        A row whose ids are padded has to be empty: padding never comes between ids.
        """
        num_tokens, device = new.ids_BT.shape[1], new.ids_BT.device
        held_B1 = torch.tensor([[row.length] for row in rows], device=device)
        padding_B1 = num_tokens - torch.tensor(new.lengths_B, device=device)[:, None]
        options: dict[str, Any] = {}
        if "position_ids" in self._takes:
            places_BT = held_B1 - padding_B1 + torch.arange(num_tokens, device=device)
            options["position_ids"] = places_BT.clamp(min=0)
        if "logits_to_keep" in self._takes:
            options["logits_to_keep"] = num_last
        if self._manner is Manner.TOGETHER:
            num_layers = text_config(self._config).num_hidden_layers
            held: Any = together(rows, num_layers=num_layers)
            first_B1 = held.num_columns - held_B1 + padding_B1
            if bool(first_B1.any()):
                columns_C = torch.arange(held.num_columns + num_tokens, device=device)
                options["attention_mask"] = (columns_C >= first_B1).long()
        else:
            (row,) = rows
            held = row.own_cache = row.own_cache or DynamicCache(config=self._config)
        options |= {self._cache_name: held, "use_cache": True}
        found = self._forward(new.ids_BT, **options)
        if self._manner is Manner.TOGETHER:
            held.widen(num_tokens)
        for row, length in zip(rows, new.lengths_B, strict=True):
            row.length += length
        return found
