"""The models of a merge: a recipe's models with ``*`` written out, and digests of folders."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.experiment.merged_models import MergeSlice, adapter_of, with_adapter
from mdel_assets.experiment.merged_tokenizer import MergedTokenizer
from mdel_assets.experiment.model_keys import Family
from mdel_assets.merge_methods.settings import number_setting
from mdel_assets.store.carry_over import is_of_tokenizer
from mdel_assets.store.digests import text_digest
from mdel_assets.store.lora_files import CONFIG_NAME, LORA_NAME
from mdel_assets.store.verification import Notes

FOLDER_PREFIX = "folder:"
# What names a model that another recipe of the experiment makes.
STAGE_PREFIX = "merged:"
# What of a recipe names models.
_RESOLVED = {"models", "slices", "base_model", "tokenizer", "tokenizer_source"}


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of a merge: ``seed``, ``expert-<domain>``, ``random-<number>`` or a folder."""

    name: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SlicedMember:
    """A model of a slice: its layers ``first`` to ``last`` (exclusive), and its parameters."""

    name: str
    first: int
    last: int
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SliceMembers:
    """A slice of a merged model: its models besides the base, and parameters of all of them."""

    models: tuple[SlicedMember, ...]
    base: SlicedMember | None
    parameters: Mapping[str, Any]

    @property
    def num_layers(self) -> int:
        """How many layers of the merged model it makes."""
        return self.models[0].last - self.models[0].first


@dataclasses.dataclass(frozen=True)
class Members:
    """The models of a merge in the recipe's order, besides the base.

    If the recipe has ``slices``, ``models`` are those that they read, each once. ``tokenizer`` is
    the merged model's, if it is made of theirs.
    """

    models: tuple[Member, ...]
    base: Member | None
    slices: tuple[SliceMembers, ...] = ()
    tokenizer: MergedTokenizer | None = None

    def __iter__(self) -> Iterator[Member]:
        yield from self.models
        if self.base:
            yield self.base

    def renamed(self, names: Sequence[str]) -> "Members":
        """Return them by other names, given in the order of iteration."""
        new = {member.name: name for member, name in zip(self, names, strict=True)}

        def named(member: Any) -> Any:
            return member and dataclasses.replace(member, name=new[member.name])

        slices = [
            dataclasses.replace(part, models=tuple(map(named, part.models)), base=named(part.base))
            for part in self.slices
        ]
        return Members(
            models=tuple(map(named, self.models)),
            base=named(self.base),
            slices=tuple(slices),
            tokenizer=self.tokenizer and self.tokenizer.renamed(new.__getitem__),
        )


def members_of(
    recipe: MergeRecipe, *, name: str, domains: Sequence[str], random_numbers: Sequence[str]
) -> Members:
    """Return the models of the recipe called ``name``.

    ``expert:*`` stands for ``domains``, and ``random:*`` for ``random_numbers``.

    Raises:
        MergeError: the recipe names the expert of a domain that is not among ``domains``.

    """
    base = _one(recipe.base, name, domains) if recipe.base else None

    def keys_of(model: str) -> Sequence[str]:
        if model == "expert:*":
            return Family.EXPERT.keys(domains)
        if model == "random:*":
            return Family.RANDOM.keys(random_numbers)
        return [_one(model, name, domains)]

    slices = tuple(_members_of_slice(part, base=base, keys_of=keys_of) for part in recipe.slices)
    if slices:
        cut = [one for part in slices for one in (*part.models, part.base) if one]
        models = [Member(key) for key in dict.fromkeys(one.name for one in cut)]
    else:
        models = [
            Member(key, entry.parameters.given())
            for entry in recipe.models
            for key in keys_of(entry.model)
        ]
    return Members(
        models=tuple(member for member in models if member.name != base),
        base=Member(base) if base else None,
        slices=slices,
        tokenizer=recipe.vocabulary and recipe.vocabulary.renamed(lambda m: _one(m, name, domains)),
    )


def _members_of_slice(
    part: MergeSlice, *, base: str | None, keys_of: Callable[[str], Sequence[str]]
) -> SliceMembers:
    """Return a slice's models; a base that is not among them has the first one's layers."""
    if part.base_model:
        (base,) = keys_of(part.base_model)
    found = [
        SlicedMember(key, *source.layer_range, source.parameters.given())
        for source in part.sources
        for key in keys_of(source.model)
    ]
    of_base = next((one for one in found if one.name == base), None)
    if base and of_base is None:
        of_base = SlicedMember(base, *part.sources[0].layer_range)
    return SliceMembers(
        models=tuple(one for one in found if one.name != base),
        base=of_base,
        parameters=part.parameters.given(),
    )


def stage_of(model: str) -> str | None:
    """Return the recipe that makes ``model`` first; None if it is another kind of model."""
    return model.removeprefix(STAGE_PREFIX) if model.startswith(STAGE_PREFIX) else None


def with_weights(members: Members, weights: Mapping[str, Any]) -> Members:
    """Return the members with the weights that a search found, by their names."""
    weighted = [
        dataclasses.replace(
            m, parameters={**m.parameters, "weight": number_setting(weights[m.name])}
        )
        for m in members.models
    ]
    return dataclasses.replace(members, models=tuple(weighted))


def _one(model: str, recipe_name: str, domains: Sequence[str]) -> str:
    model, adapter = adapter_of(model)
    return with_adapter(_one_model(model, recipe_name, domains), adapter)


def _one_model(model: str, recipe_name: str, domains: Sequence[str]) -> str:
    domain = model.removeprefix("expert:")
    if domain == model:
        return model
    if domain not in domains:
        raise MergeError(
            f"Recipe '{recipe_name}' needs the expert of '{domain}', but the corpus has no "
            f"training document of that domain. Remove it from the recipe. Present domains: "
            f"{', '.join(domains)}."
        )
    return Family.EXPERT.key(domain)


def resolved_recipe(recipe: MergeRecipe, members: Members) -> dict[str, Any]:
    """Return the recipe in mergekit's schema, with all models and values written out."""
    content = recipe.model_dump(mode="json", exclude=_RESOLVED, exclude_defaults=True)
    if members.base:
        content["base_model"] = members.base.name
    if members.tokenizer:
        content["tokenizer"] = members.tokenizer.resolved()
    if not members.slices:
        return content | {"models": [_entry(member) for member in members.models]}
    slices = []
    for part in members.slices:
        read = [*part.models, *([part.base] if part.base else [])]
        resolved: dict[str, Any] = {
            "sources": [_entry(one, layer_range=[one.first, one.last]) for one in read]
        }
        if part.base and (members.base is None or part.base.name != members.base.name):
            resolved["base_model"] = part.base.name
        if part.parameters:
            resolved["parameters"] = _plain(part.parameters)
        slices.append(resolved)
    return content | {"slices": slices}


def _entry(member: Member | SlicedMember, **more: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"model": member.name, **more}
    if parameters := recipe_parameters(member):
        entry["parameters"] = parameters
    return entry


def recipe_config(
    recipe: MergeRecipe, members: Members, *, digests: Mapping[str, str]
) -> dict[str, Any]:
    """Return the config of a merge: the recipe, and its models with their parameters.

    A model from elsewhere is identified by its digest, if ``digests`` has one, because its name
    does not determine its content.
    """
    config = recipe.model_dump(mode="json", exclude=_RESOLVED, exclude_defaults=True)
    named = [
        [digests.get(member.name, member.name), recipe_parameters(member)] for member in members
    ]
    config |= {"members": named, "has_base": members.base is not None}
    identified = members.renamed([digests.get(one.name, one.name) for one in members])
    resolved = resolved_recipe(recipe, identified)
    return config | {key: resolved[key] for key in ("slices", "tokenizer") if key in resolved}


def without_folders(written: str) -> str:
    """Return a written recipe in which folder paths are reduced to the folder's name."""
    documents = list(yaml.safe_load_all(written))
    for content in documents:
        if "tokenizer" in content:
            settings = MergedTokenizer.model_validate(content["tokenizer"])
            content["tokenizer"] = settings.renamed(_without_folder).resolved()
        slices = content.get("slices", [])
        sources = [source for part in slices for source in part["sources"]]
        for entry in [content, *content.get("models", []), *slices, *sources]:
            for field in ("model", "base_model"):
                if field in entry:
                    entry[field] = _without_folder(str(entry[field]))
    return yaml.safe_dump_all(documents, sort_keys=False)


def _without_folder(model: str) -> str:
    def name(path: str | None) -> Any:
        return Path(path).name if path and Path(path).is_absolute() else path

    return with_adapter(*map(name, adapter_of(model)))


def recipe_parameters(member: Member | SlicedMember) -> dict[str, Any]:
    """Return a member's own parameters as YAML and JSON know them: lists, not tuples."""
    return {name: _plain(value) for name, value in member.parameters.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def folder_digest(folder: Path, *, notes: Path | None = None, with_tokenizer: bool = False) -> str:
    """Return a digest of a model folder's weights, configuration and, if asked, tokenizer.

    In the folder ``notes`` stands what was read of it: files that stay as they are are read once.

    Raises:
        MergeError: it is not a folder, or has no safetensors weights.

    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise MergeError(
            f"'{folder}' is not a model. Expected 'seed', 'expert:<domain>', a model folder or a "
            f"Hub id (OWNER/NAME or OWNER/NAME@REVISION). Correct the recipe."
        )
    wanted = CONFIG_NAME if (folder / LORA_NAME).is_file() else "config.json"
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix == ".safetensors"
        or path.name in ("config.json", wanted)
        or (with_tokenizer and is_of_tokenizer(path.name))
    )
    if not any(name.endswith(".safetensors") for name in names):
        raise MergeError(
            f"The folder '{folder}' holds no model: it has no *.safetensors file. Save a model "
            f"there (model.save_pretrained), or name another folder."
        )
    name = f"outside-{text_digest(str(folder.absolute()))}.json"
    digests = Notes(folder, notes / name if notes else None).digests(names)
    return FOLDER_PREFIX + "-".join(digests[name][:16] for name in names)
