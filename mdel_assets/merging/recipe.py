"""A merge recipe, in a strict subset of mergekit's YAML, and what it comes to for each tensor.

What is ours alone stands under ``mdel``. `docs/merging.md` says where the meaning departs.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from mdel_assets.errors import MergeError, UnknownKeyError, unknown_name_message
from mdel_assets.experiment_fields import PositiveInt, Section
from mdel_assets.merging.methods import METHODS
from mdel_assets.merging.methods.method import MergeMethod, Parameter, TensorSettings
from mdel_assets.merging.settings import Flag, Number, value_for

# The resolved recipe, beside what it made.
RECIPE_NAME = "mergekit_config.yml"
DtypeName = Literal["float32", "float16", "bfloat16"]
# Known from mergekit, where it saves memory; it changes nothing here.
_WITHOUT_EFFECT = {"int8_mask"}
_SEARCHED_METHOD = "task_arithmetic"


class ModelParameters(Section):
    """Parameters of one model in a recipe; what is left out has the method's default."""

    model_config = ConfigDict(serialize_by_alias=True)

    weight: Number = None
    density: Number = None
    gamma: Number = None
    epsilon: Number = None
    scale: Number = None

    def given(self) -> dict[str, Any]:
        """Return what was set, by the name that recipes use."""
        fields = type(self).model_fields.items()
        values = {field.alias or name: getattr(self, name) for name, field in fields}
        return {name: value for name, value in values.items() if value is not None}


class MergeModel(Section):
    """One model of a recipe.

    ``expert:<domain>``, ``expert:*``, ``random:*`` (the random split's experts), ``seed``, or a
    folder.
    """

    model: str
    parameters: ModelParameters = ModelParameters()


class MergeParameters(ModelParameters):
    """Parameters of the whole recipe, and values for models that have none of their own."""

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
    """How weights are searched that no recipe gives: those with the fewest bits per byte.

    One for each model; with ``layer_groups`` more than 1, one for each model and group of layers.
    At most ``num_trials`` models are scored, each on the first ``max_characters`` of
    ``num_documents`` validation documents of each domain, drawn by ``seed``. The best of them is
    judged on up to ``num_test_documents`` of each test split, or on the first
    ``max_test_characters`` of them.
    """

    num_trials: Annotated[int, Field(ge=8, le=40)] = 40
    layer_groups: PositiveInt = 1
    num_documents: PositiveInt = 32
    max_characters: PositiveInt = 4096
    num_test_documents: PositiveInt = 200
    max_test_characters: PositiveInt | None = None
    seed: int = 0


class MdelSettings(Section):
    """What mergekit does not have.

    ``seed`` is that of random masks. ``rescale`` says what rescaling a thinned task vector keeps:
    the sum of its absolute values, or, as in DARE's paper, its expected value. ``max_shard_mib``
    cuts the output into files of that size. ``search`` finds the models' weights.
    """

    search: Search | None = None
    seed: int = 0
    rescale: Literal["l1", "density"] = "l1"
    max_shard_mib: PositiveInt | None = None


class MergeRecipe(Section):
    """One recipe, in the words of mergekit's schema.

    ``base_model`` is the seed where a method needs one and the recipe names none. ``out_dtype``, or
    else ``dtype``, is the output's; work is done in fp32 always.
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
        return self.base_model or ("seed" if self.method.base == "required" else None)

    @property
    def model_names(self) -> list[str]:
        """Every model that the recipe names, as it names them."""
        return [*(entry.model for entry in self.models), *([self.base] if self.base else [])]

    @property
    def dtype_of_output(self) -> DtypeName | None:
        """What the output's numbers are stored as; None keeps the inputs' dtype."""
        return self.out_dtype or self.dtype

    def without_search(self) -> "MergeRecipe":
        """Return the recipe that a searched one becomes when its models have their weights."""
        return self.model_copy(update={"mdel": self.mdel.model_copy(update={"search": None})})

    @model_validator(mode="after")
    def _leaves_to_the_search_what_it_finds(self) -> "MergeRecipe":
        if self.mdel.search is None:
            return self
        if self.merge_method != _SEARCHED_METHOD or self.base != "seed":
            raise ValueError(
                f"mdel.search finds the weights of merge_method '{_SEARCHED_METHOD}' with the base "
                f"'seed', which every weighted mean of experts and seed is a case of; the recipe "
                f"has '{self.merge_method}'"
                + (f" with the base '{self.base}'" if self.base else "")
            )
        sections = [self.parameters, *(entry.parameters for entry in self.models)]
        given = {name for section in sections for name in section.given()} - _WITHOUT_EFFECT
        if given:
            raise ValueError(
                f"mdel.search finds the weights: take {', '.join(sorted(given))} out of the recipe"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_method(self) -> "MergeRecipe":
        if self.merge_method not in METHODS:
            raise UnknownKeyError(
                unknown_name_message("merge_method", self.merge_method, sorted(METHODS))
            )
        if self.base_model and self.method.base == "refused":
            raise ValueError(
                f"merge_method '{self.merge_method}' takes no base_model; take it out, or list "
                f"'{self.base_model}' among the models"
            )
        sections = [self.parameters, *(entry.parameters for entry in self.models)]
        given = {name for section in sections for name in section.given()}
        for name in sorted(given - _WITHOUT_EFFECT):
            if name not in self.method.parameters:
                raise UnknownKeyError(
                    f"merge_method '{self.merge_method}' does not know the parameter '{name}'. "
                    f"It knows: {', '.join(self.method.parameters) or 'none'}."
                )
        for name, parameter in self.method.parameters.items():
            if parameter.default is None and name not in given:
                raise ValueError(f"merge_method '{self.merge_method}' needs parameters.{name}")
        return self


def refuse_wrong_number(recipe: MergeRecipe, names: Sequence[str]) -> None:
    """Raise `MergeError` where the method takes more or fewer models besides the base."""
    low, high = recipe.method.min_models, recipe.method.max_models
    if not low <= len(names) <= (high or len(names)):
        expected = f"{low}" if low == high else f"at least {low}" if high is None else f"{high}"
        besides = f" besides the base '{recipe.base}'" if recipe.base else ""
        raise MergeError(
            f"merge_method '{recipe.merge_method}' takes {expected} models{besides}, the recipe "
            f"has {len(names)}: {', '.join(names)}. Correct its models or its base_model."
        )


def settings_for(
    recipe: MergeRecipe,
    models: Mapping[str, Mapping[str, Any]] | Sequence[tuple[str, Mapping[str, Any]]],
    *,
    name: str,
    shape: tuple[int, ...],
    depth: float,
) -> TensorSettings:
    """Return what ``recipe`` comes to for tensor ``name``; ``models`` are those besides the base.

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
            f"No filter of {where} matches the tensor {name}. Add an entry without a filter: it "
            f"holds for all others."
        )
    return parameter.default


def refuse_out_of_bounds(where: str, parameter: Parameter, value: Any) -> None:
    """Raise `MergeError` where ``value`` is out of the parameter's bounds."""
    low = parameter.low if parameter.low is not None else float("-inf")
    high = parameter.high if parameter.high is not None else float("inf")
    if not low <= value <= high:
        raise MergeError(f"{where} is {value}, expected {low:g} to {high:g}. Correct the recipe.")
