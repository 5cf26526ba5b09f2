"""The adapter of a training: low-rank matrices that are trained in place of weights (LoRA)."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from mdel_assets.experiment.section import Section, Text
from mdel_assets.experiment.trained_layers import OUTSIDE


class Adapter(Section):
    """Low-rank adapters, trained by PEFT and then merged into the weights (LoRA, arXiv 2106.09685).

    For each linear layer that ``targets`` names inside ``trained_layers``, two matrices of ``rank``
    are trained; their product times ``alpha / rank`` is added to its weight. ``alpha`` is twice the
    rank by default. ``targets`` are modules' names as in PEFT, such as ``q_proj``; by default, all
    linear layers there. ``dropout`` is the share of an adapter's inputs that is set to zero.
    """

    rank: Annotated[int, Field(ge=1, le=10**5)] = 16
    alpha: Annotated[float, Field(gt=0.0)] | None = None
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @property
    def strength(self) -> float:
        """What is called alpha: divided by the rank, it scales the product."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


def layers_mistake_of_adapter(trained_layers: str | Sequence[int | str]) -> str | None:
    """Return why an adapter cannot be trained in ``trained_layers``; None if it can."""
    if outside := [str(entry) for entry in trained_layers if entry in OUTSIDE]:
        return (
            f"an adapter is trained in linear layers of the model's layers, and trained_layers "
            f"names {', '.join(outside)}: remove {', '.join(outside)} or the adapter"
        )
    return None
