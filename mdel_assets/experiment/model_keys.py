"""Model keys: the names that models have in partitions, reports and file names.

A key is a family alone (``seed``, ``dense``) or a family and a name (``expert-github``). Keys
travel as strings; they are made and taken apart here.
"""

import dataclasses
import enum
from collections.abc import Iterable


class Family(enum.StrEnum):
    """What kind of model a key names."""

    SEED = "seed"
    # Baselines: `DENSE` and `DENSE_ONE`.
    DENSE = "dense"
    EXPERT = "expert"
    # An expert of the random split.
    RANDOM = "random"
    VARIANT = "variant"
    MERGED = "merged"
    # A mixture of experts.
    MIXTURE = "mixture"
    # A model from elsewhere.
    REFERENCE = "reference"
    # Experts that are run together.
    ENSEMBLE = "ensemble"

    def key(self, name: str) -> str:
        """Return the key of the family's model called ``name``."""
        return f"{self.value}-{name}"

    def keys(self, names: Iterable[str]) -> list[str]:
        """Return the keys of the family's models called ``names``, in their order."""
        return [self.key(name) for name in names]

    def has(self, key: str) -> bool:
        """Whether ``key`` is of this family."""
        return key.partition("-")[0] == self.value


SEED = Family.SEED.value
DENSE = Family.DENSE.value
DENSE_ONE = Family.DENSE.key("one")
# All experts, weighed by how well they predict the text so far.
POSTERIOR = Family.ENSEMBLE.key("posterior-all")
_FAMILIES = {family.value: family for family in Family}


@dataclasses.dataclass(frozen=True)
class ModelKey:
    """A key, taken apart; ``family`` is None where the key begins with the name of none."""

    family: Family | None
    name: str

    @classmethod
    def parse(cls, key: str) -> "ModelKey":
        """Take ``key`` apart; without a family, all of it is the name."""
        first, _, name = key.partition("-")
        family = _FAMILIES.get(first)
        return cls(family, name) if family else cls(None, key)
