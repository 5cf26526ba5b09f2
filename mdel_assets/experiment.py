"""Experiment: what is studied, read from one YAML file, frozen and validated.

`load_experiment` takes a bundled name or a path. Every mistake in the file is refused here, before
hours are spent, with the key, the value and the nearest known name.
"""

import re
import types
import typing
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, Tag, ValidationError, model_validator

from mdel_assets.data.pile_domains import PILE_DOMAINS
from mdel_assets.errors import ExperimentError, UnknownKeyError, unknown_name_message
from mdel_assets.experiment_fields import (
    Baselines,
    ClusteredDomains,
    Domain,
    Domains,
    Evaluation,
    ExpertTraining,
    Mixture,
    Section,
    SeedModel,
    Source,
    Variant,
)
from mdel_assets.merging.recipe import MergeRecipe, refuse_wrong_number
from mdel_assets.publishing_fields import Hub, Tracking
from mdel_assets.shard_locations import MAX_SHARDS, shard_keys, write_out

_LENGTHS = {"num_tokens", "max_steps", "num_epochs"}
VALIDATION_SHARD = "val"
TEST_SHARD = "test"


class Shard(Section):
    """One file of the corpus: partition key, place, and the split its documents are for."""

    key: str
    location: str
    role: Literal["train", "validation", "test"]
    sha256: str | None = None


class Experiment(Section):
    """What is studied. Read `experiments/sample.yaml` beside this class."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: Source
    domains: Domains = "pile"
    mixture: Mixture = Mixture()
    seed_model: SeedModel
    training: ExpertTraining
    variants: dict[str, Variant] = {}
    baselines: Baselines = Baselines()
    merges: dict[str, MergeRecipe] = {}
    evaluation: Evaluation = Evaluation()
    hub: Hub = Hub()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _is_consistent(self) -> "Experiment":
        _refuse_repeats("domain key", self.domain_keys)
        _refuse_repeats(
            "domain label", [s for d in self.domain_table for s in (d.name, *d.aliases)]
        )
        named_things: dict[str, Iterable[str]] = {
            "recipe": self.merges,
            "reference": self.evaluation.references,
            "variant": self.variants,
        }
        for what, named in named_things.items():
            for name in named:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                    raise ValueError(f"'{name}' cannot name a {what}: use letters, digits, . _ -")
        for name, variant in self.variants.items():
            if variant.domain not in self.domain_keys:
                known = unknown_name_message("domain", variant.domain, self.domain_keys)
                raise ValueError(f"variants.{name}: {known}")
            if unknown := sorted(variant.training.keys() - ExpertTraining.model_fields.keys()):
                known = unknown_name_message("key", unknown[0], list(ExpertTraining.model_fields))
                raise ValueError(f"variants.{name}.training: {known}")
            self.variant_training(name)
        for recipe in self.merges.values():
            names = [entry.model for entry in recipe.models if entry.model != recipe.base]
            if not any(name.endswith(":*") for name in names):
                refuse_wrong_number(recipe, names)
            for model in recipe.model_names:
                if model.startswith("expert:") and model != "expert:*":
                    self.require_domain(model.removeprefix("expert:"))
                if model == "random:*" and not self.baselines.random_split:
                    raise ValueError("a recipe takes 'random:*', so set baselines.random_split")
        layout, is_labelled = self.source.layout, self.clusters is None
        if layout == "columns" and is_labelled and not self.source.domain_field:
            raise ValueError(
                "layout 'columns' needs 'domain_field', the column of a record's domain; or let "
                "'domains: {clusters: 8}' find domains"
            )
        if self.source.domain_field == self.source.text_field:
            raise ValueError("source.text_field and source.domain_field are the same field")
        return self

    @property
    def domain_table(self) -> tuple[Domain, ...]:
        """The domains, in partition order."""
        if isinstance(self.domains, ClusteredDomains):
            return self.domains.table
        return PILE_DOMAINS if self.domains == "pile" else self.domains

    @property
    def clusters(self) -> ClusteredDomains | None:
        """How domains are found where the corpus has no labels, else None."""
        return self.domains if isinstance(self.domains, ClusteredDomains) else None

    @property
    def domain_keys(self) -> list[str]:
        """Partition keys of the domains."""
        return [domain.key for domain in self.domain_table]

    @property
    def model_keys(self) -> list[str]:
        """Every model that can be scored.

        ``seed``, ``dense-one``, ``dense``, ``expert-<domain>``, ``random-<number>``,
        ``variant-<name>``, ``merged-<recipe>``, ``reference-<name>``, as far as the experiment has
        them.
        """
        experts = [f"expert-{key}" for key in self.domain_keys]
        merged = [f"merged-{recipe}" for recipe in self.merges]
        numbers = [f"random-{key}" for key in self.random_split_keys]
        references = [f"reference-{name}" for name in self.evaluation.references]
        variants = [f"variant-{name}" for name in self.variants]
        return ["seed", *self.dense_keys, *experts, *numbers, *variants, *merged, *references]

    def variant_training(self, name: str) -> ExpertTraining:
        """Return the settings that a variant is trained with.

        Raises:
            ValueError: a value that no training takes, or two that do not go together.

        """
        changes = self.variants[name].training
        kept = self.training.model_dump(exclude_unset=True)
        if _LENGTHS & changes.keys():
            kept = {key: value for key, value in kept.items() if key not in _LENGTHS}
        try:
            return ExpertTraining.model_validate(kept | changes)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"variants.{name}.training.{place}: {first['msg']}") from error

    @property
    def searched_recipes(self) -> list[str]:
        """Recipes whose weights are searched."""
        return [name for name, recipe in self.merges.items() if recipe.mdel.search]

    @property
    def dense_keys(self) -> list[str]:
        """Which of ``dense-one`` and ``dense`` the experiment has."""
        chosen = {"dense-one": self.baselines.dense_one, "dense": self.baselines.dense}
        return [key for key, is_chosen in chosen.items() if is_chosen]

    @property
    def random_split_keys(self) -> list[str]:
        """Partition keys of the random split's experts: numbers from 1, one for each domain."""
        count = len(self.domain_table) if self.baselines.random_split else 0
        return [str(number + 1) for number in range(count)]

    def require_domain(self, key: str) -> Domain:
        """Return the domain called ``key``; raise `UnknownKeyError` with the nearest known one."""
        for domain in self.domain_table:
            if domain.key == key:
                return domain
        raise UnknownKeyError(unknown_name_message("domain", key, self.domain_keys))

    def shards(self) -> list[Shard]:
        """Return the shards, train first; local globs are expanded in sorted order.

        Raises:
            ExperimentError: a glob matches nothing, there are too many, or one is given twice.

        """
        places = [place for pattern in self.source.train for place in write_out(pattern)]
        if len(places) > MAX_SHARDS:
            raise ExperimentError(
                f"source.train names {len(places)} shards, and an experiment has up to "
                f"{MAX_SHARDS}. Join files into fewer shards."
            )
        held_out = {VALIDATION_SHARD: self.source.validation, TEST_SHARD: self.source.test}
        keys = shard_keys(places, taken=[key for key, place in held_out.items() if place])
        found = [
            Shard(key=key, location=place, role="train", sha256=None)
            for key, place in zip(keys, places, strict=True)
        ]
        if self.source.validation:
            found.append(
                Shard(key=VALIDATION_SHARD, location=self.source.validation, role="validation")
            )
        if self.source.test:
            found.append(Shard(key=TEST_SHARD, location=self.source.test, role="test"))
        try:
            _refuse_repeats("shard name", [shard.key for shard in found])
        except ValueError as error:
            raise ExperimentError(f"source.train: {error}. Take one of the two out.") from None
        if unknown := set(self.source.sha256) - {shard.key for shard in found}:
            raise UnknownKeyError(
                unknown_name_message("shard", min(unknown), [shard.key for shard in found])
            )
        return [
            shard.model_copy(update={"sha256": self.source.sha256.get(shard.key)})
            for shard in found
        ]


def bundled_experiments() -> list[str]:
    """Return the names of the experiments that ship with the package."""
    folder = resources.files("mdel_assets.experiments")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_experiment(name_or_path: str) -> Experiment:
    """Read a bundled experiment by name, or any YAML file by path.

    Raises:
        ExperimentError: no such file, not YAML, or a value that is refused.
        UnknownKeyError: a key that no section knows; the message names the nearest.

    """
    if name_or_path in bundled_experiments():
        text = resources.files("mdel_assets.experiments").joinpath(f"{name_or_path}.yaml")
        return parse_experiment(text.read_text("utf-8"), origin=name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        known = unknown_name_message("experiment", name_or_path, bundled_experiments())
        raise ExperimentError(f"{known} Nor is there a file of that name. Check MDEL_EXPERIMENT.")
    return parse_experiment(path.read_text("utf-8"), origin=str(path))


def parse_experiment(text: str, *, origin: str) -> Experiment:
    """Return the experiment that ``text`` describes; ``origin`` names it in messages."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{origin} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ExperimentError(f"{origin} must hold a mapping of keys, see experiments/sample.yaml")
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise _explain(error, origin) from error


def _explain(error: ValidationError, origin: str) -> ExperimentError:
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            *section, key = [str(part) for part in problem["loc"]]
            section, known = _known_keys(section)
            where = f" in '{'.'.join(section)}'" if section else ""
            return UnknownKeyError(
                f"{origin}: {unknown_name_message('key', key, known).removesuffix('.')}{where}."
            )
    lines = []
    for problem in problems:
        path, _ = _known_keys([str(part) for part in problem["loc"]])
        place = ".".join(path) or "the experiment"
        seen = problem["input"]
        shown = "" if isinstance(seen, dict) else f" (got {seen!r})"
        lines.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return ExperimentError(f"{origin}: " + "; ".join(lines))


def _known_keys(path: list[str]) -> tuple[list[str], list[str]]:
    """Return ``path`` as the YAML has it, without tags of unions, and the keys of its section.

    Indices and mapping keys are stepped over.
    """
    model: type[Section] = Experiment
    inside: Any = None
    shown = []
    for part in path:
        if (tagged := _tagged(inside, part)) is not None:
            inside = tagged
        else:
            shown.append(part)
            field = model.model_fields.get(part)
            inside = field.annotation if field is not None else inside
        model = _section_in(inside) or model
    return shown, [field.alias or name for name, field in model.model_fields.items()]


def _tagged(annotation: Any, tag: str) -> Any:
    """Return the member of a union that carries ``tag``."""
    for member in typing.get_args(annotation):
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in typing.get_args(member)[1:]):
            return typing.get_args(member)[0]
    return None


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union, typing.Annotated, tuple, dict, list):
        for inner in typing.get_args(annotation):
            if found := _section_in(inner):
                return found
    return None


def _refuse_repeats(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} '{name}' occurs twice")
        seen.add(name)
