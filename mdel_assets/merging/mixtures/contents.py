"""``mixture.json``: what a mixture's folder holds besides what its configuration says."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mdel_assets.errors import MergeError
from mdel_assets.experiment.mixtures import Router

CONTENTS_NAME = "mixture.json"
# What the general expert, the seed's own feed-forward, is called among the experts.
GENERAL = "seed"


@dataclasses.dataclass(frozen=True)
class MixtureContents:
    """The experts of a mixture, in the order of its gates' rows.

    ``trained_layers`` are the layers in which each expert's feed-forward differs from the seed's,
    ``mixture_layers`` those that are mixtures. ``num_mean_tensors`` is how many tensors besides
    feed-forwards are means of the experts' own, because the experts trained them.
    """

    router: Router
    experts: tuple[str, ...]
    trained_layers: dict[str, list[int]]
    mixture_layers: list[int]
    num_mean_tensors: int

    def write(self, folder: Path) -> None:
        """Write it into the mixture's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)
        (folder / CONTENTS_NAME).write_text(text + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> "MixtureContents":
        """Return the contents of a mixture.

        Raises:
            MergeError: the folder holds no mixture that was made here.

        """
        try:
            found: dict[str, Any] = json.loads((folder / CONTENTS_NAME).read_text("utf-8"))
            return cls(**(found | {"experts": tuple(found["experts"])}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MergeError(
                f"{folder} holds no mixture with its {CONTENTS_NAME} ({error}). Make it again."
            ) from error
