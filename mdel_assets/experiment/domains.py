"""The domains of an experiment: the Pile's, listed ones, or a number of clusters."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mdel_assets.experiment.fields import Domain
from mdel_assets.experiment.section import PositiveInt, Section, Seed


class ClusteredDomains(Section):
    """The domains of a corpus without labels: ``clusters`` of documents on similar topics.

    They are fitted to ``num_documents`` of the first train shard, drawn by ``seed``. They are about
    equally large, and their keys are ``cluster_0``, ``cluster_1``, ...
    """

    clusters: Annotated[int, Field(ge=2, le=10_000)]
    num_documents: PositiveInt = 20_000
    seed: Seed = 0

    @property
    def table(self) -> tuple[Domain, ...]:
        """The domains, in partition order."""
        width = len(str(self.clusters - 1))
        keys = [f"cluster_{number:0{width}d}" for number in range(self.clusters)]
        return tuple(Domain(key=key, name=key) for key in keys)


def _kind_of_domains(content: Any) -> str:
    """Return which form of `Domains` a value has, so that only mistakes of that form are shown."""
    if isinstance(content, (list, tuple)):
        return "listed"
    return "found" if isinstance(content, (dict, ClusteredDomains)) else "named"


Domains = Annotated[
    Annotated[Literal["pile"], Tag("named")]
    | Annotated[ClusteredDomains, Tag("found")]
    | Annotated[tuple[Domain, ...], Tag("listed")],
    Discriminator(_kind_of_domains),
]
