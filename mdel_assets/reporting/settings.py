"""The settings that the report shows: enough to repeat the experiment, without private places."""

import re
from typing import Any

import yaml

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.publishing.cards import public_place

# They say where things go, not what they are.
_LEFT_OUT = {"hub", "tracking", "folder"}
_PLACE = re.compile(r"[/~]|[a-z]+://")


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


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _public(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return public_place(value) if isinstance(value, str) and _PLACE.match(value) else value
