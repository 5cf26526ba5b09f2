"""A merge recipe, in a strict subset of mergekit's YAML, and its settings for each tensor.

Additional settings are under ``mdel``. `docs/merging.md` lists the differences from mergekit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from mdel_assets.errors import MergeError, unknown_name_message
from mdel_assets.experiment.model_keys import SEED
from mdel_assets.experiment.section import PositiveInt, Section, Seed, Text
from mdel_assets.merge_methods import METHODS
from mdel_assets.merge_methods.method import MergeMethod, Parameter, TensorSettings
from mdel_assets.merge_methods.settings import Flag, Number, numbers_in, value_for

# The resolved recipe, beside what it made.
RECIPE_NAME = "mergekit_config.yml"
DtypeName = Literal["float32", "float16", "bfloat16"]
# Known from mergekit, where it saves memory; it changes nothing here.
_WITHOUT_EFFECT = {"int8_mask"}
_SEARCHED_METHOD = "task_arithmetic"


class ModelParameters(Section):
    """Parameters of one model in a recipe; the others have the method's default."""

    model_config = ConfigDict(serialize_by_alias=True)

    weight: Number = None
    density: Number = None
    gamma: Number = None
    epsilon: Number = None
    scale: Number = None

    def given(self) -> dict[str, Any]:
        """Return the parameters that were set, by their names in recipes."""
        fields = type(self).model_fields.items()
        values = {field.alias or name: getattr(self, name) for name, field in fields}
        return {name: value for name, value in values.items() if value is not None}


class MergeModel(Section):
    """One model of a recipe.

    ``expert:<domain>``, ``expert:*``, ``random:*`` (the random split's experts), ``seed``, or a
    folder.
    """

    model: Text
    parameters: ModelParameters = ModelParameters()


class MergeParameters(ModelParameters):
    """Parameters of the whole recipe, and defaults for models that do not set them."""

    normalize: Flag = None
    rescale: Flag = None
    lambda_: Number = Field(default=None, alias="lambda")
    t: Number = None
    nuslerp_flatten: Flag = None
    normalize_weights: Flag = None
    max_iter: Number = None
    tol: Number = None
    filter_wise: Flag = None
    select_topk: Number = None
    int8_mask: Flag = None


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


class MergeRecipe(Section):
    """One recipe, in mergekit's schema.

    ``base_model`` defaults to the seed if the method needs a base. ``out_dtype``, or else
    ``dtype``, is the output's; merging always computes in fp32.
    """

    merge_method: str
    base_model: str | None = None
    models: Annotated[tuple[MergeModel, ...], Field(min_length=1)]
    parameters: MergeParameters = MergeParameters()
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
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
        return [*(entry.model for entry in self.models), *([self.base] if self.base else [])]

    @property
    def dtype_of_output(self) -> DtypeName | None:
        """The dtype of the stored output; None keeps the inputs' dtype."""
        return self.out_dtype or self.dtype

    def without_search(self) -> "MergeRecipe":
        """Return the recipe without its search, for use with the weights that were found."""
        return self.model_copy(update={"mdel": self.mdel.model_copy(update={"search": None})})

    @model_validator(mode="after")
    def _fits_its_method(self) -> "MergeRecipe":
        if self.merge_method not in METHODS:
            raise ValueError(
                unknown_name_message("merge_method", self.merge_method, sorted(METHODS))
            )
        if mistakes := [*self._mistakes_of_search(), *self._mistakes_of_parameters()]:
            raise ValueError("; ".join(mistakes))
        return self

    def _given(self) -> list[tuple[str, Any]]:
        sections = [self.parameters, *(entry.parameters for entry in self.models)]
        return [pair for section in sections for pair in section.given().items()]

    def _mistakes_of_search(self) -> Iterator[str]:
        if self.mdel.search is None:
            return
        if self.merge_method != _SEARCHED_METHOD or self.base != SEED:
            yield (
                f"mdel.search supports only merge_method '{_SEARCHED_METHOD}' with the base "
                f"'seed', which includes every weighted mean of experts and seed; the recipe has "
                f"'{self.merge_method}'" + (f" with the base '{self.base}'" if self.base else "")
            )
        if given := {name for name, _ in self._given()} - _WITHOUT_EFFECT:
            names = ", ".join(sorted(given))
            yield f"mdel.search finds the weights: remove {names} from the recipe"

    def _mistakes_of_parameters(self) -> Iterator[str]:
        method, given = self.method, self._given()
        if self.base_model and method.base == "refused":
            yield (
                f"merge_method '{self.merge_method}' takes no base_model; remove it, or list "
                f"'{self.base_model}' among the models"
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
        weights = self._weights()
        if weights and not any(number for weight in weights for number in numbers_in(weight)):
            yield "all weights are 0: nothing would be merged. Give a model a weight above 0"
        elif self._is_mean() and weights and all(isinstance(w, float) for w in weights):
            is_zero = math.isclose(sum(weights), 0.0, abs_tol=1e-12)
            yield from ["the weights sum to 0: change them, or set normalize: false"] * is_zero

    def _weights(self) -> list[Any]:
        """Return each model's weight; an empty list if the method has no weights."""
        if "weight" not in self.method.parameters:
            return []
        whole = self.parameters.weight
        whole = self.method.parameters["weight"].default if whole is None else whole
        return [
            whole if entry.parameters.weight is None else entry.parameters.weight
            for entry in self.models
            if entry.model != self.base
        ]

    def _is_mean(self) -> bool:
        """Whether weights are divided by their sum and no model is a wildcard."""
        given, known = self.parameters.normalize, self.method.parameters.get("normalize")
        by_default = known is not None and bool(known.default)
        is_listed = not any(entry.model.endswith(":*") for entry in self.models)
        return is_listed and (by_default if given is None else given is True)


def wrong_number(recipe: MergeRecipe, names: Sequence[str]) -> str | None:
    """Return a message if the number of models is wrong for the method, else None."""
    low, high = recipe.method.min_models, recipe.method.max_models
    if low <= len(names) <= (high or len(names)):
        return None
    expected = f"{low}" if low == high else f"at least {low}" if high is None else f"{high}"
    besides = f" besides the base '{recipe.base}'" if recipe.base else ""
    return (
        f"merge_method '{recipe.merge_method}' takes {expected} models{besides}, the recipe has "
        f"{len(names)}: {', '.join(names)}. Correct its models or its base_model."
    )


def refuse_wrong_number(recipe: MergeRecipe, names: Sequence[str]) -> None:
    """Raise `MergeError` if the number of models is wrong for the method."""
    if mistake := wrong_number(recipe, names):
        raise MergeError(mistake)


def settings_for(
    recipe: MergeRecipe,
    models: Mapping[str, Mapping[str, Any]] | Sequence[tuple[str, Mapping[str, Any]]],
    *,
    name: str,
    shape: tuple[int, ...],
    depth: float,
) -> TensorSettings:
    """Return the settings of ``recipe`` for tensor ``name``; ``models`` exclude the base.

    Raises:
        MergeError: no filter of a parameter matches, or a value is out of its bounds.

    """
    entries = list(models.items() if isinstance(models, Mapping) else models)
    whole = recipe.parameters.given()
    of_models: dict[str, tuple[float, ...]] = {}
    shared: dict[str, Any] = {}
    for key, parameter in recipe.method.parameters.items():
        if parameter.per_model:
            of_models[key] = tuple(
                _value(key, parameter, [own, whole], name=name, depth=depth, model=model)
                for model, own in entries
            )
        else:
            shared[key] = _value(key, parameter, [whole], name=name, depth=depth, model=None)
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
