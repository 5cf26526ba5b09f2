"""The models of a merge recipe, whole or in slices, and their parameters, in mergekit's schema."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from mdel_assets.experiment.section import Section, Text
from mdel_assets.merge_methods.settings import Flag, Number

# Between a model's name and that of an adapter that is merged into it first, as in mergekit.
_PLUS = "+"
LayerNumber = Annotated[int, Field(ge=0, le=10**6)]


def without_modules(content: Any) -> Any:
    """Return a recipe's content with the models or slices of its only module at its top.

    Raises:
        ValueError: it has several modules, or models both inside and outside of one.

    """
    if not isinstance(content, dict) or not isinstance(content.get("modules"), dict):
        return content
    modules = dict(content["modules"])
    if len(modules) != 1 or not all(isinstance(one, dict) for one in modules.values()):
        raise ValueError(
            f"modules: expected one module, got {', '.join(map(str, modules)) or 'none'}. Models "
            f"of several modules, such as an encoder and a decoder, are not merged here"
        )
    rest = {key: value for key, value in content.items() if key != "modules"}
    (module,) = modules.values()
    if twice := sorted((rest.keys() & module.keys()) - {"parameters"}):
        raise ValueError(f"'{twice[0]}' stands both inside and outside of 'modules': keep one")
    parameters = {**(rest.get("parameters") or {}), **(module.get("parameters") or {})}
    return {**rest, **module} | ({"parameters": parameters} if parameters else {})


def adapter_of(name: str, place: Callable[[str], str] = str) -> tuple[str, str | None]:
    """Return the two names in ``model+adapter``; None in place of the second if there is one.

    The path of a folder that exists names one model, whatever it contains: of several pluses, the
    last counts before which there is a folder, or else the first. ``place`` gives a name's path.
    """
    if _PLUS not in name or _exists(name, place):
        return name, None
    ends = [at for at, letter in enumerate(name) if letter == _PLUS]
    there = [at for at in ends if at and _exists(name[:at], place)]
    at = there[-1] if there else ends[0]
    return name[:at], name[at + 1 :]


def _exists(name: str, place: Callable[[str], str]) -> bool:
    return Path(place(name)).expanduser().exists()


def with_adapter(model: str, adapter: str | None) -> str:
    """Return the name of ``model`` with ``adapter`` merged into it."""
    return model if adapter is None else f"{model}{_PLUS}{adapter}"


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
    folder. ``model+adapter`` is a model into which a LoRA adapter is merged first.
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


class SliceSource(MergeModel):
    """A model of a slice: its layers from the first number of ``layer_range`` up to the second.

    The second is not included: ``[0, 8]`` are the first eight layers.
    """

    layer_range: tuple[LayerNumber, LayerNumber]


class MergeSlice(Section):
    """A stretch of the merged model's layers: as many as each source's ``layer_range`` names.

    ``base_model`` and ``parameters`` go before the recipe's.
    """

    sources: Annotated[tuple[SliceSource, ...], Field(min_length=1)]
    base_model: str | None = None
    parameters: MergeParameters = MergeParameters()

    @property
    def num_layers(self) -> int:
        """How many layers of the merged model it makes."""
        first, last = self.sources[0].layer_range
        return last - first
