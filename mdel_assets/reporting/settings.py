"""The settings that the report shows: enough to repeat the experiment, without private places."""

import re
from typing import Any

import yaml

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.publishing.cards import public_place

# They say where things go, not what they are.
_LEFT_OUT = {"hub", "tracking", "folder"}
_PLACE = re.compile(r"[/~]|[a-z]+://")
# Settings that name files, folders or models; `model+adapter` names two.
_PLACES = {
    *("train", "validation", "test", "path", "model", "base_model"),
    *("tokenizer_source", "source", "tasks_folder"),
}


def shown_settings(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that differ from their defaults, without destinations.

    A setting that is new, at its default, changes nothing here. Folders of this machine, and user
    and password of an address, are left out of places.
    """
    content = experiment.model_dump(mode="json", exclude_defaults=True, exclude=_LEFT_OUT)
    shown: dict[str, Any] = _public(content)
    return shown


def as_yaml(settings: dict[str, Any]) -> str:
    """Return settings as an experiment's file has them."""
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    return text


def has_hidden_places(experiment: Experiment) -> bool:
    """Whether places were shortened, so that whoever repeats the experiment has to write them."""
    content = experiment.model_dump(mode="json", exclude_defaults=True, exclude=_LEFT_OUT)
    return bool(_public(content) != content)


def _public(value: Any, *, setting: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _public(one, setting=name) for name, one in value.items()}
    if isinstance(value, list):
        return [_public(one, setting=setting) for one in value]
    if not isinstance(value, str) or setting not in _PLACES:
        return value
    parts = value.split("+")
    return "+".join(public_place(part) if _PLACE.match(part) else part for part in parts)
