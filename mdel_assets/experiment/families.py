"""Families of experiments: a base, and settings that each change some of it.

A family is a YAML file with a ``name``, a ``base`` that is an experiment without its name, and
``settings`` by name. A setting is what differs from the base: mappings are merged key by key, any
other value replaces the base's, and null takes a key away. The setting ``middle`` of the family
``map`` is the experiment ``map/middle``, which is named ``map-middle``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mdel_assets.errors import ExperimentError, UnknownKeyError, listed, unknown_name_message
from mdel_assets.experiment.section import name_mistake
from mdel_assets.experiment.yaml_mapping import read_mapping

_KEYS = ("name", "base", "settings")


@dataclass(frozen=True)
class ExperimentFamily:
    """A family as read: ``place`` is how it was named, ``folder`` where its file lies, if it does.

    ``settings`` are what differs from ``base``, by name, in the order of the file.
    """

    place: str
    name: str
    base: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    folder: Path | None

    def experiment_names(self) -> dict[str, str]:
        """Return by setting what ``MDEL_EXPERIMENT`` calls its experiment."""
        return {setting: f"{self.place}/{setting}" for setting in self.settings}

    def content(self, setting: str) -> dict[str, Any]:
        """Return the experiment of a setting, as its YAML would be.

        Raises:
            UnknownKeyError: the family has no such setting.

        """
        if setting not in self.settings:
            raise UnknownKeyError(
                unknown_name_message(f"setting of '{self.place}'", setting, self.settings)
            )
        return {"name": f"{self.name}-{setting}"} | _changed(self.base, self.settings[setting])


def bundled_families() -> list[str]:
    """Return the names of the families that ship with the package."""
    folder = resources.files("mdel_assets.experiments").joinpath("families")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_family(place: str) -> ExperimentFamily:
    """Read a bundled family by name, or any YAML file of one by path.

    Raises:
        ExperimentError: there is no such family, or it is not one: all mistakes are named.

    """
    if place in bundled_families():
        folder = resources.files("mdel_assets.experiments").joinpath("families")
        text = folder.joinpath(f"{place}.yaml").read_text("utf-8")
        return _parsed(text, place=place, folder=None)
    path = Path(place)
    if not path.is_file():
        known = unknown_name_message("family", place, bundled_families())
        raise ExperimentError(f"{known} There is no file of that name, either.")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(
            f"{path} cannot be read: {error}. Give a YAML file in UTF-8 that you may read."
        ) from error
    return _parsed(text, place=place, folder=path.absolute().parent)


def setting_of_family(name: str) -> tuple[ExperimentFamily, str] | None:
    """Return the family and the setting that ``FAMILY/SETTING`` names; None if there is no such.

    Raises:
        ExperimentError: the file of the family is not one.

    """
    place, _, setting = name.rpartition("/")
    if place in bundled_families() or (place and Path(place).is_file()):
        return load_family(place), setting
    return None


def _parsed(text: str, *, place: str, folder: Path | None) -> ExperimentFamily:
    content = read_mapping(text, origin=place)
    mistakes = [unknown_name_message("key", str(key), _KEYS) for key in content if key not in _KEYS]
    name, base, settings = (content.get(key) for key in _KEYS)
    wrong = name_mistake(name) if isinstance(name, str) else f"expected text, got {name!r}"
    mistakes += [f"name: {wrong}"] if wrong else []
    if not isinstance(base, dict):
        mistakes.append("base: expected an experiment without its name, a mapping of keys")
    elif "name" in base:
        mistakes.append("base: remove 'name'; an experiment is named after family and setting")
    if not (isinstance(settings, dict) and settings):
        mistakes.append("settings: expected a mapping of names to what differs from the base")
    else:
        mistakes += [m for key, value in settings.items() for m in _mistakes_in(key, value)]
    if mistakes:
        raise ExperimentError(f"{place}{listed(mistakes)}")
    found = {key: value or {} for key, value in settings.items()}  # type: ignore[union-attr]
    return ExperimentFamily(place, name, base, found, folder)  # type: ignore[arg-type]


def _mistakes_in(key: object, value: object) -> list[str]:
    wrong = name_mistake(key) if isinstance(key, str) else f"'{key}' has to be text"
    found = [f"settings: {wrong}"] if wrong else []
    if not (value is None or isinstance(value, dict)):
        found.append(f"settings.{key}: expected what differs from the base, a mapping of keys")
    elif value and "name" in value:
        found.append(f"settings.{key}: remove 'name'; it is that of family and setting")
    return found


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``: mappings merged, null taking a key away."""
    found = dict(base)
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(found.get(key), Mapping):
            found[key] = _changed(found[key], value)
        elif isinstance(value, Mapping):
            found[key] = _changed({}, value)
        else:
            found[key] = value
    return found
