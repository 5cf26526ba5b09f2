"""How many of a mixture's weights a token goes through."""

import math
import re
from pathlib import Path

from mdel_assets.model_families.mixture_family import read_content
from mdel_assets.store.tensor_files import TensorFolder

_OF_AN_EXPERT = re.compile(r"\.experts\.\d+\.")


def count_active(folder: Path) -> int:
    """Return how many weights of the mixture in ``folder`` one token goes through.

    That is all but the feed-forwards of the experts that it is not sent to.
    """
    config = read_content(folder)
    num_experts: int = config.get("num_local_experts") or config["num_experts"]
    shapes = TensorFolder(folder).shapes
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    of_experts = sum(size for name, size in sizes.items() if _OF_AN_EXPERT.search(name))
    num_idle: int = num_experts - config["num_experts_per_tok"]
    return sum(sizes.values()) - of_experts // num_experts * num_idle
