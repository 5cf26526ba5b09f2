"""A mixture as the experiment describes it, under ``mixtures``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mdel_assets.errors import MergeError, unknown_name_message
from mdel_assets.experiment.section import PositiveInt, Section, Seed, Text
from mdel_assets.experiment.trained_layers import trains_part

ALL_EXPERTS = "expert:*"


def _experts_setting(content: Any) -> Any:
    """Return a list of experts; one that stands alone is a list of one."""
    return [content] if isinstance(content, str) else content


Router = Literal["domains", "trained"]


class GateTraining(Section):
    """How gates are trained: ``num_steps`` batches of general text, all other weights frozen.

    General text is that of all domains, each as much. ``load_balancing`` is the weight of the loss
    that grows as tokens go to few of the experts (Shazeer et al. 2017, Fedus et al. 2021).
    """

    num_steps: Annotated[int, Field(ge=1, le=10**6)] = 300
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0e-2
    load_balancing: Annotated[float, Field(ge=0.0)] = 0.01
    seed: Seed = 0


class MixtureRecipe(Section):
    """One mixture of experts.

    ``experts`` are ``expert:*`` or a list of ``expert:<domain>``. A token goes through
    ``experts_per_token`` of them. ``general_expert``: the seed's own feed-forward is one more.
    ``router``: each gate's rows are made of ``router_tokens`` tokens of its expert's training text
    (``domains``), and from there on trained as ``training`` says (``trained``).
    """

    experts: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_experts_setting)] = (
        ALL_EXPERTS,
    )
    router: Router = "domains"
    experts_per_token: PositiveInt = 2
    general_expert: bool = False
    router_tokens: Annotated[int, Field(ge=1024, le=10**9)] = 32768
    training: GateTraining = GateTraining()

    @property
    def reads_all(self) -> bool:
        """Whether text of all domains goes into it, and not of its own experts' alone."""
        return self.general_expert or self.router == "trained"

    def named_domains(self, known: Sequence[str]) -> list[str]:
        """Return the domains whose experts are mixed, of those that are ``known``."""
        if self.experts == (ALL_EXPERTS,):
            return list(known)
        return [expert.removeprefix("expert:") for expert in self.experts]

    def domains(self, present: Sequence[str]) -> list[str]:
        """Return the domains whose experts are mixed, of those that are ``present``.

        Raises:
            MergeError: the recipe names the expert of another domain.

        """
        named = self.named_domains(present)
        if absent := [domain for domain in named if domain not in present]:
            raise MergeError(
                f"The mixture takes the expert of '{absent[0]}', but the corpus has no training "
                f"document of that domain. Take it out; present: {', '.join(present)}."
            )
        return named

    def mistakes(self, known: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong with the recipe in an experiment with the domains ``known``."""
        if self.experts != (ALL_EXPERTS,):
            yield from self._mistakes_in_list(known)
        is_all = self.experts == (ALL_EXPERTS,)
        count = (len(known) if is_all else len(self.experts)) + self.general_expert
        if count < 2:
            yield f"a mixture has two experts or more, this one {count}"
        elif self.experts_per_token > count:
            yield (
                f"experts_per_token is {self.experts_per_token}, but there are {count} experts: "
                f"lower it"
            )

    def _mistakes_in_list(self, known: Sequence[str]) -> Iterator[str]:
        for expert in self.experts:
            domain = expert.removeprefix("expert:")
            if domain == expert or domain == "*":
                yield (
                    f"experts has '{expert}': write '{ALL_EXPERTS}' alone, or a list of "
                    f"expert:<domain>"
                )
            elif domain not in known:
                yield unknown_name_message("domain", domain, known)
        for expert in sorted({e for e in self.experts if self.experts.count(e) > 1}):
            yield f"experts has '{expert}' twice"

    @model_validator(mode="after")
    def _trains_what_can_learn(self) -> "MixtureRecipe":
        if self.router == "domains" and "training" in self.model_fields_set:
            raise ValueError(
                "router 'domains' needs no training: take 'training' out, or set router: trained"
            )
        if self.router == "trained" and self.experts_per_token == 1:
            raise ValueError(
                "router 'trained' needs experts_per_token 2 or more: the weight of a single "
                "expert is always 1, so that its gate has nothing to learn from"
            )
        return self


def mistakes_in_mixtures(
    mixtures: Mapping[str, MixtureRecipe],
    *,
    domains: Sequence[str],
    trained_layers: Literal["all"] | Sequence[int | str],
) -> Iterator[str]:
    """Yield what is wrong with the mixtures of an experiment, as far as it tells by itself."""
    for name, recipe in mixtures.items():
        for mistake in recipe.mistakes(domains):
            yield f"mixtures.{name}: {mistake}"
    if mixtures and not trains_part(trained_layers, "mlp"):
        yield (
            "mixtures: training.trained_layers has no feed-forward block, so experts' do not "
            "differ and there is nothing to mix. Train some, as in '9-13.mlp' or 9-13"
        )
