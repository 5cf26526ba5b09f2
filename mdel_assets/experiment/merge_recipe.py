"""A merge recipe, in a strict subset of mergekit's YAML, and its settings for each tensor.

Additional settings are under ``mdel``. `docs/merging.md` lists the differences from mergekit.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mdel_assets.errors import MergeError, unknown_name_message
from mdel_assets.experiment.merged_models import (
    MergeModel,
    MergeParameters,
    MergeSlice,
    without_modules,
)
from mdel_assets.experiment.merged_tokenizer import (
    AUTO,
    MergedTokenizer,
    chat_template_mistake,
    tokenizer_mistakes,
)
from mdel_assets.experiment.model_keys import SEED
from mdel_assets.experiment.section import PositiveInt, Section, Seed, Text
from mdel_assets.merge_methods import METHODS
from mdel_assets.merge_methods.method import MergeMethod, Parameter, TensorSettings
from mdel_assets.merge_methods.settings import numbers_in, value_for

# The resolved recipe, beside what it made.
RECIPE_NAME = "mergekit_config.yml"
DtypeName = Literal["float32", "float16", "bfloat16"]
# Known from mergekit, where it saves memory; it changes nothing here.
_WITHOUT_EFFECT = {"int8_mask"}
_SEARCHED_METHOD = "task_arithmetic"


class Search(Section):
    """How to search for the weights with the fewest bits per byte.

    There is one weight per model; with ``layer_groups`` more than 1, one per model and group of
    layers. At most ``num_trials`` models are scored, each on the first ``max_characters`` of
    ``num_documents`` validation documents of each domain, drawn by ``seed``. The best one is judged
    on up to ``num_test_documents`` of each test split, or on the first ``max_test_characters`` of
    each.
    """

    num_trials: Annotated[int, Field(ge=8, le=40)] = 40
    layer_groups: PositiveInt = 1
    num_documents: PositiveInt = 32
    max_characters: PositiveInt = 4096
    num_test_documents: PositiveInt = 200
    max_test_characters: PositiveInt | None = None
    seed: Seed = 0


class MdelSettings(Section):
    """Settings that mergekit does not have.

    ``seed`` is the seed of random masks. ``rescale`` says what rescaling a thinned task vector
    preserves: the sum of its absolute values, or, as in DARE's paper, its expected value.
    ``max_shard_mib`` is the largest size of an output file. ``search`` finds the models' weights.
    """

    search: Search | None = None
    seed: Seed = 0
    rescale: Literal["l1", "density"] = "l1"
    max_shard_mib: PositiveInt | None = None


@dataclasses.dataclass(frozen=True)
class Together:
    """Models that are merged with each other: those of a recipe, or of one of its slices."""

    models: Sequence[MergeModel]
    base: str | None
    parameters: Sequence[MergeParameters]

    @property
    def names(self) -> list[str]:
        """The models besides the base."""
        return [entry.model for entry in self.models if entry.model != self.base]

    def given(self) -> list[tuple[str, Any]]:
        """Return every parameter that is set, with its value."""
        sections = [*self.parameters, *(entry.parameters for entry in self.models)]
        return [pair for section in sections for pair in section.given().items()]

    def first_given(self, name: str, default: Any) -> Any:
        """Return a parameter as it is set for all models."""
        values = (getattr(section, name) for section in self.parameters)
        return next((value for value in values if value is not None), default)


class MergeRecipe(Section):
    """One recipe, in mergekit's schema: of whole ``models``, or of ``slices`` of their layers.

    ``base_model`` defaults to the seed if the method needs a base. ``out_dtype``, or else
    ``dtype``, is the output's; merging always computes in fp32. ``tokenizer``, or in short
    ``tokenizer_source``, is for models whose tokenizers differ: the base's, the union, or one
    model's. ``chat_template`` is the models' most common one (auto), one by name, or Jinja.
    """

    merge_method: str
    base_model: str | None = None
    models: tuple[MergeModel, ...] = ()
    slices: tuple[MergeSlice, ...] = ()
    parameters: MergeParameters = MergeParameters()
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: Text | None = None
    tokenizer: MergedTokenizer | None = None
    chat_template: Text | None = None
    mdel: MdelSettings = MdelSettings()

    @property
    def method(self) -> MergeMethod:
        """The row of `METHODS`."""
        return METHODS[self.merge_method]

    @property
    def base(self) -> str | None:
        """The model that task vectors start from, if the method takes one."""
        return self.base_model or (SEED if self.method.base == "required" else None)

    @property
    def model_names(self) -> list[str]:
        """Every model that the recipe names, as it names them."""
        named = [entry.model for group in self.groups for entry in group.models]
        return [*named, *(group.base for group in self.groups if group.base)]

    @property
    def groups(self) -> list[Together]:
        """The models that are merged with each other: one group, or one for each slice."""
        if not self.slices:
            return [Together(self.models, self.base, [self.parameters])]
        return [
            Together(part.sources, part.base_model or self.base, [part.parameters, self.parameters])
            for part in self.slices
        ]

    @property
    def vocabulary(self) -> MergedTokenizer | None:
        """The merged model's tokenizer, if the models' tokenizers may differ."""
        if self.tokenizer_source:
            return MergedTokenizer(source=self.tokenizer_source)
        return self.tokenizer

    @property
    def reads_tokenizers(self) -> bool:
        """Whether the merged model depends on the tokenizers of its models."""
        return self.vocabulary is not None or self.chat_template == AUTO

    @property
    def dtype_of_output(self) -> DtypeName | None:
        """The dtype of the stored output; None keeps the inputs' dtype."""
        return self.out_dtype or self.dtype

    def without_search(self) -> "MergeRecipe":
        """Return the recipe without its search, for use with the weights that were found."""
        return self.model_copy(update={"mdel": self.mdel.model_copy(update={"search": None})})

    @model_validator(mode="before")
    @classmethod
    def _has_no_modules(cls, content: Any) -> Any:
        return without_modules(content)

    @model_validator(mode="after")
    def _fits_its_method(self) -> "MergeRecipe":
        if self.merge_method not in METHODS:
            raise ValueError(
                unknown_name_message("merge_method", self.merge_method, sorted(METHODS))
            )
        if mistakes := [
            *self._mistakes_of_models(),
            *self._mistakes_of_search(),
            *self._mistakes_of_tokenizer(),
            *self._mistakes_of_parameters(),
        ]:
            raise ValueError("; ".join(dict.fromkeys(mistakes)))
        return self

    def _given(self) -> list[tuple[str, Any]]:
        return [pair for group in self.groups for pair in group.given()]

    def _mistakes_of_models(self) -> Iterator[str]:
        if bool(self.models) == bool(self.slices):
            have = "has both" if self.models else "has neither"
            yield f"a recipe names its models under either 'models' or 'slices': this one {have}"
        for number, part in enumerate(self.slices):
            ranges = [list(source.layer_range) for source in part.sources]
            for (first, last), source in zip(ranges, part.sources, strict=True):
                if first >= last:
                    yield (
                        f"slices[{number}]: layer_range {[first, last]} of '{source.model}' holds "
                        f"no layer: its second number is the first layer that is left out"
                    )
            if len({last - first for first, last in ranges}) > 1:
                yield f"slices[{number}]: its sources differ in their number of layers: {ranges}"

    def _mistakes_of_search(self) -> Iterator[str]:
        if self.mdel.search is None:
            return
        if self.slices:
            yield "mdel.search supports whole models only: list them under 'models'"
        if self.merge_method != _SEARCHED_METHOD or self.base != SEED:
            yield (
                f"mdel.search supports only merge_method '{_SEARCHED_METHOD}' with the base "
                f"'seed', which includes every weighted mean of experts and seed; the recipe has "
                f"'{self.merge_method}'" + (f" with the base '{self.base}'" if self.base else "")
            )
        if given := {name for name, _ in self._given()} - _WITHOUT_EFFECT:
            names = ", ".join(sorted(given))
            yield f"mdel.search finds the weights: remove {names} from the recipe"

    def _mistakes_of_tokenizer(self) -> Iterator[str]:
        if self.tokenizer_source and self.tokenizer:
            yield "a recipe has either 'tokenizer_source' or 'tokenizer': remove one of them"
        if self.vocabulary and self.mdel.search:
            yield "mdel.search merges models of one tokenizer: remove 'tokenizer' from the recipe"
        if self.vocabulary:
            yield from tokenizer_mistakes(self.vocabulary, self.model_names)
        if self.chat_template and (mistake := chat_template_mistake(self.chat_template)):
            yield mistake

    def _mistakes_of_parameters(self) -> Iterator[str]:
        method, given = self.method, self._given()
        bases = [self.base_model, *(part.base_model for part in self.slices)]
        if method.base == "refused" and (named := [base for base in bases if base]):
            yield (
                f"merge_method '{self.merge_method}' takes no base_model; remove it, or list "
                f"'{named[0]}' among the models"
            )
        names = {name for name, _ in given}
        for name in sorted(names - _WITHOUT_EFFECT - method.parameters.keys()):
            yield (
                f"merge_method '{self.merge_method}' has no parameter '{name}'. "
                f"Known: {', '.join(method.parameters) or 'none'}"
            )
        for name, parameter in method.parameters.items():
            if parameter.default is None and name not in names:
                yield f"merge_method '{self.merge_method}' needs parameters.{name}"
        for name, setting in given:
            known = method.parameters.get(name)
            beyond = [n for n in numbers_in(setting) if known and not known.allows(n)]
            yield from (out_of_bounds(f"'{name}'", known, n) for n in beyond if known)
        for group in self.groups:
            yield from self._mistakes_of_weights(group)

    def _mistakes_of_weights(self, group: Together) -> Iterator[str]:
        parameter = self.method.parameters.get("weight")
        if parameter is None:
            return
        whole = group.first_given("weight", parameter.default)
        weights = [
            whole if entry.parameters.weight is None else entry.parameters.weight
            for entry in group.models
            if entry.model != group.base
        ]
        if weights and not any(number for weight in weights for number in numbers_in(weight)):
            yield "all weights are 0: nothing would be merged. Give a model a weight above 0"
        elif self._is_mean(group) and weights and all(isinstance(w, float) for w in weights):
            is_zero = math.isclose(sum(weights), 0.0, abs_tol=1e-12)
            yield from ["the weights sum to 0: change them, or set normalize: false"] * is_zero

    def _is_mean(self, group: Together) -> bool:
        """Whether weights are divided by their sum and no model is a wildcard."""
        known = self.method.parameters.get("normalize")
        by_default = known is not None and bool(known.default)
        is_listed = not any(entry.model.endswith(":*") for entry in group.models)
        return is_listed and group.first_given("normalize", by_default) is True


def wrong_number(
    recipe: MergeRecipe, names: Sequence[str], *, base: str | None = None
) -> str | None:
    """Return a message if the number of models is wrong for the method, else None.

    ``base`` is a slice's, where it has one of its own.
    """
    low, high = recipe.method.min_models, recipe.method.max_models
    if low <= len(names) <= (high or len(names)):
        return None
    expected = f"{low}" if low == high else f"at least {low}" if high is None else f"{high}"
    base = base or recipe.base
    besides = f" besides the base '{base}'" if base else ""
    return (
        f"merge_method '{recipe.merge_method}' takes {expected} models{besides}, the recipe has "
        f"{len(names)}: {', '.join(names)}. Correct its models or its base_model."
    )


def refuse_wrong_number(
    recipe: MergeRecipe, names: Sequence[str], *, base: str | None = None
) -> None:
    """Raise `MergeError` if the number of models is wrong for the method."""
    if mistake := wrong_number(recipe, names, base=base):
        raise MergeError(mistake)


def settings_for(
    recipe: MergeRecipe,
    models: Mapping[str, Mapping[str, Any]] | Sequence[tuple[str, Mapping[str, Any]]],
    *,
    name: str,
    shape: tuple[int, ...],
    depth: float,
    of_slice: Mapping[str, Any] | None = None,
) -> TensorSettings:
    """Return the settings of ``recipe`` for tensor ``name``; ``models`` exclude the base.

    The parameters ``of_slice`` go before the recipe's.

    Raises:
        MergeError: no filter of a parameter matches, or a value is out of its bounds.

    """
    entries = list(models.items() if isinstance(models, Mapping) else models)
    shared_by_all = [of_slice or {}, recipe.parameters.given()]
    of_models: dict[str, tuple[float, ...]] = {}
    shared: dict[str, Any] = {}
    for key, parameter in recipe.method.parameters.items():
        if parameter.per_model:
            of_models[key] = tuple(
                _value(key, parameter, [own, *shared_by_all], name=name, depth=depth, model=model)
                for model, own in entries
            )
        else:
            shared[key] = _value(key, parameter, shared_by_all, name=name, depth=depth, model=None)
    return TensorSettings(
        name=name,
        shape=shape,
        models=tuple(model for model, _ in entries),
        of_models=of_models,
        shared=shared,
        seed=recipe.mdel.seed,
        rescale=recipe.mdel.rescale,
    )


def _value(
    key: str,
    parameter: Parameter,
    sources: Sequence[Mapping[str, Any]],
    *,
    name: str,
    depth: float,
    model: str | None,
) -> Any:
    where = f"'{key}'" + (f" of {model}" if model else "")
    given = [source[key] for source in sources if key in source]
    for setting in given:
        value = value_for(setting, name=name, depth=depth)
        if value is not None:
            refuse_out_of_bounds(where, parameter, value)
            return value
    if given:
        raise MergeError(
            f"No filter of {where} matches the tensor {name}. Add an entry without a filter, which "
            f"applies to all other tensors."
        )
    return parameter.default


def refuse_out_of_bounds(where: str, parameter: Parameter, value: Any) -> None:
    """Raise `MergeError` if ``value`` is out of the parameter's bounds."""
    if not parameter.allows(value):
        raise MergeError(f"{out_of_bounds(where, parameter, value)}. Correct the recipe.")


def out_of_bounds(where: str, parameter: Parameter, value: Any) -> str:
    """Return what is wrong with a value that the parameter does not allow."""
    low, high = parameter.bounds
    return f"{where} is {value}, expected {low:g} to {high:g}"
