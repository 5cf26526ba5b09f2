"""What it takes to make a mixture of experts out of models of a family.

A layer's feed-forward block becomes one of several experts of a mixture layer, and nothing else of
the layer changes: so the mixture's family has to compute the rest as the seed's family does.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# What a feed-forward block is called in a layer of every family that can become a mixture, and the
# matrices that it is made of.
FEED_FORWARD = "mlp"
MATRICES = ("gate_proj", "up_proj", "down_proj")
# What a configuration says of the model that it came with, and of no mixture.
_OF_THE_SEED = ("model_type", "architectures", "transformers_version", "_name_or_path")


@dataclasses.dataclass(frozen=True)
class MixtureFamily:
    """One family of mixtures, such as Mixtral, and how a seed model becomes one of it.

    ``architecture`` is its class in transformers, ``count`` what configurations call the number of
    experts. ``seed_types`` are the ``model_type`` of seeds that fit. ``block`` is what files call a
    mixture layer's feed-forward, ``matrices`` maps `MATRICES` to the names that files have for them
    in an expert. ``can_stay_dense``: layers without a mixture are possible. ``misfits`` yields what
    of a seed's configuration no mixture can have. ``settings`` returns what a mixture's
    configuration has besides the seed's, given how many experts there are, how many of them a token
    goes through, and which layers stay dense; ``left_out`` are settings that it has no use for.
    """

    model_type: str
    architecture: str
    count: str
    seed_types: tuple[str, ...]
    block: str
    matrices: Mapping[str, str]
    can_stay_dense: bool
    misfits: Callable[[Mapping[str, Any]], Iterator[str]]
    settings: Callable[[Mapping[str, Any], int, int, list[int]], dict[str, Any]]
    left_out: tuple[str, ...] = ()

    def matrix_name(self, layer: str, number: int, matrix: str) -> str:
        """Return what files call a matrix of expert ``number``; ``layer`` is the layer's prefix."""
        return f"{layer}{self.block}.experts.{number}.{self.matrices[matrix]}.weight"

    def gate_name(self, layer: str) -> str:
        """Return what files call a layer's gate, a row of (E, D) for each expert."""
        return f"{layer}{self.block}.gate.weight"

    def write_configuration(
        self,
        seed: Mapping[str, Any],
        folder: Path,
        *,
        num_experts: int,
        experts_per_token: int,
        dense_layers: list[int],
    ) -> None:
        """Write the configuration of a mixture of the seed's kind into ``folder``."""
        from transformers import AutoConfig

        kept = {k: v for k, v in seed.items() if k not in (*_OF_THE_SEED, *self.left_out)}
        own = self.settings(seed, num_experts, experts_per_token, dense_layers)
        config = AutoConfig.for_model(self.model_type, **(kept | own))
        content = json.loads(config.to_json_string(use_diff=False))
        # The library may write the number under a name that its older versions do not read.
        content |= {"architectures": [self.architecture], self.count: num_experts}
        write_content(content, folder)


def read_content(folder: Path) -> dict[str, Any]:
    """Return what the configuration in a model folder says."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def write_content(content: Mapping[str, Any], folder: Path) -> None:
    """Write a configuration into a model folder."""
    text = json.dumps(content, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", "utf-8")
