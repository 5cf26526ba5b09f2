"""The ensembles of `ensemble_report`, by their names, and what each is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdel_assets.errors import GenerationError, ScoringError, unknown_name_message
from mdel_assets.evaluation.ensemble import Array, moving_average_prior
from mdel_assets.generation.weighing import (
    FixedWeights,
    PosteriorWeights,
    RoutedWeights,
    Weighing,
)

ENSEMBLE = "ensemble-"
_RANDOM = "random-split-"
_ROUTED = ("tfidf", "linear")
_KEPT = (1, 2)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How experts are weighed: by which family of weights, and how many are kept (None: all)."""

    name: str
    family: str
    num_kept: int | None = None
    is_of_random_split: bool = False

    @property
    def is_routed(self) -> bool:
        """Whether a router weighs the experts."""
        return self.family in _ROUTED


def ensembles_of(num_experts: int, *, has_random_split: bool) -> list[Ensemble]:
    """Return every ensemble that the report has of so many experts."""
    found = [Ensemble(f"{ENSEMBLE}uniform", "uniform"), Ensemble(f"{ENSEMBLE}label", "label")]
    for family in ("posterior", *_ROUTED):
        found += [
            Ensemble(f"{ENSEMBLE}{family}-top{k}", family, num_kept=k)
            for k in _KEPT
            if k < num_experts
        ]
        found.append(Ensemble(f"{ENSEMBLE}{family}-all", family))
        if family == "posterior":
            found.append(Ensemble(f"{ENSEMBLE}posterior-all-without-prior", "without-prior"))
    if has_random_split:
        found += [
            Ensemble(f"{ENSEMBLE}{_RANDOM}uniform", "uniform", is_of_random_split=True),
            Ensemble(f"{ENSEMBLE}{_RANDOM}posterior-all", "posterior", is_of_random_split=True),
        ]
    return found


class Weights:
    """Makes the weights of each text of one ensemble.

    ``members`` are the domains of the experts, in order, or their numbers in the random split, and
    ``domains`` those that a text can be of; ``route`` gives (E,) log-weights for the text of some
    tokens; ``prior`` gives (E,) log-weights that a text of a domain begins with.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        members: Sequence[str],
        *,
        domains: Sequence[str],
        route: Callable[[Sequence[int]], Array] | None = None,
        prior: Callable[[str], Array] | None = None,
    ) -> None:
        self._ensemble = ensemble
        self._members = list(members)
        self._domains = list(domains)
        self._route = route
        self._prior = prior

    def of_text(self, domain: str | None) -> Weighing:
        """Return the weights of a text whose domain is told, or not.

        Raises:
            GenerationError: a domain that there is not; ``ensemble-label``, and no domain.

        """
        if domain is not None and domain not in self._domains:
            raise GenerationError(unknown_name_message("domain", domain, self._domains))
        num_experts, kept = len(self._members), self._ensemble.num_kept
        match self._ensemble.family:
            case "uniform":
                return FixedWeights.uniform(num_experts)
            case "label":
                return FixedWeights.one(self._labelled(domain), num_experts)
            case "posterior" if domain is not None and self._prior is not None:
                return PosteriorWeights(self._prior(domain), num_kept=kept)
            case "posterior" | "without-prior":
                equal_E = FixedWeights.uniform(num_experts).log_weights()
                return PosteriorWeights(equal_E, num_kept=kept)
        assert self._route is not None
        return RoutedWeights(self._route, num_experts=num_experts, num_kept=kept)

    def _labelled(self, domain: str | None) -> int:
        if domain is None:
            raise GenerationError(
                f"{self._ensemble.name} takes the expert of a text's domain, and none was told. "
                f"Name one of {', '.join(self._domains)}, or take another ensemble."
            )
        return self._members.index(domain)


class TextRouter:
    """Weighs domains for the text of tokens, as the report's routers do."""

    def __init__(self, router: Any, family: str, tokenizer: Any) -> None:
        self._router = router
        self._family = family
        self._tokenizer = tokenizer

    def __call__(self, tokens: Sequence[int]) -> Array:
        """Return (E,) log-weights of the domains."""
        text = self._tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        # A character that the next token completes is not read yet.
        found_1E = self._router.log_weights([text.rstrip("�")], self._family)
        # The report keeps readings in this precision, which decides what is a tie.
        found: Array = found_1E[0].astype(np.float32).astype(np.float64)
        return found


def domain_prior(scores: Mapping[str, Path], domain: str, *, decay: float) -> Array:
    """Return the (E,) log-prior that the report gives to test texts of a domain.

    It is learned on the domain's own validation documents. ``scores`` maps experts, in order, to
    their token-scores folders.

    Raises:
        ScoringError: no such document was scored.

    """
    from mdel_assets.scoring.perplexity import read_cells

    columns = []
    for folder in scores.values():
        cells = {(cell.dataset, cell.split): cell for cell in read_cells(folder)}
        cell = cells.get((domain, "validation_domain"))
        if cell is None:
            raise ScoringError(
                f"The prior of '{domain}' is learned on its split validation_domain, which was not "
                f"scored. Add it to evaluation.splits and run 'mdel run', or tell no domain."
            )
        columns.append(cell.nll_nats_D)
    return moving_average_prior(np.stack(columns, axis=1), decay=decay)
