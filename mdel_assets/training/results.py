"""What a model's record says of how it was made: written from these, and read into these."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """What a run did. ``curves`` hold (step, value) points by what was measured (`curves.py`).

    ``num_processes`` and ``tokens_per_second`` may differ when the same model is trained again:
    they lie beside the record, and are None where they were not kept.
    """

    num_steps: int
    num_tokens: int
    num_blocks: int
    num_epochs: float
    final_loss: float
    curves: dict[str, list[tuple[float, float]]]
    num_processes: int | None = None
    tokens_per_second: float | None = None


def history_of(details: Mapping[str, Any]) -> TrainingHistory | None:
    """Return the training that the details of a model's record tell of; None if it had none."""
    history = details.get("history")
    return TrainingHistory(**history) if history else None


@dataclasses.dataclass(frozen=True)
class _Result:
    history: TrainingHistory | None

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Self:
        """Return what the details of a record hold."""
        names = {field.name for field in dataclasses.fields(cls)} & details.keys()
        return cls(**{name: details[name] for name in names} | {"history": history_of(details)})


@dataclasses.dataclass(frozen=True)
class SeedResult(_Result):
    """The seed as saved. ``history`` and ``validation_loss`` are None unless it was pretrained.

    ``licence`` is what the adopted model's own card states, None where it states none.
    """

    architecture: str
    num_parameters: int
    num_layers: int
    vocab_rows: int
    validation_loss: float | None
    licence: str | None = None


@dataclasses.dataclass(frozen=True)
class ExpertResult(_Result):
    """The expert as saved.

    ``trained_layers`` are the layers trained in whole or in part; ``trained_prefixes`` those of the
    names, as they are stored, of all tensors that may differ from the seed's.
    ``losses_before`` and ``losses_after`` give nats per token by validation split, where the
    split has a block of text. ``changed_though_frozen`` names tensors that must not differ from
    the seed but do.
    """

    history: TrainingHistory
    trained_layers: list[int]
    num_trained_parameters: int
    num_frozen_parameters: int
    losses_before: dict[str, float]
    losses_after: dict[str, float]
    changed_though_frozen: list[str]
    trained_prefixes: list[str] | None = None
