"""docker-compose.yml and deploy/Dockerfile as their own tools read them, as far as needed here."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
GPU_OVERRIDE = ROOT / "deploy" / "docker-compose.gpu.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?:(:?[-?])([^}]*))?\}|(\w+))")


class MissingVariableError(Exception):
    """A variable that the file requires is not set; the message is the file's own."""


def read_compose(
    environment: Mapping[str, str], *, path: Path = COMPOSE, profiles: Collection[str] = ()
) -> dict[str, Any]:
    """Return a compose file with its variables replaced; a key without value is passed on.

    Services of other profiles than ``profiles`` are left out.
    """
    content = _interpolated(yaml.safe_load(path.read_text("utf-8")), environment)
    content["services"] = {
        name: service
        for name, service in content["services"].items()
        if set(service.get("profiles", profiles)) <= set(profiles)
    }
    for service in content["services"].values():
        given = service.get("environment", {})
        service["environment"] = {
            name: environment[name] if value is None else value
            for name, value in given.items()
            if value is not None or name in environment
        }
    return content


def _interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        braced, operator, text, bare = match.groups()
        name = braced or bare
        if name is None:
            return "$"
        operator = operator or "-"
        found = environment.get(name)
        if found or (found is not None and not operator.startswith(":")):
            return found
        if operator.endswith("?"):
            raise MissingVariableError(f"{name}: {text}")
        return text or ""

    return _VARIABLE.sub(replaced, value)


@dataclasses.dataclass(frozen=True)
class Mount:
    """A line of a service's ``volumes``: a named volume, or a path of the checkout."""

    source: str
    target: str
    is_read_only: bool

    @classmethod
    def parse(cls, line: str) -> "Mount":
        source, target, *options = line.split(":")
        return cls(source, target, options == ["ro"])

    @property
    def is_named(self) -> bool:
        return not self.source.startswith((".", "/"))


def mounts_of(service: Mapping[str, Any]) -> list[Mount]:
    """Return what a service mounts, outer folders before what lies in them."""
    found = [Mount.parse(line) for line in service.get("volumes", [])]
    return sorted(found, key=lambda mount: mount.target.count("/"))


def dockerfile_steps() -> list[tuple[str, str]]:
    """Return (instruction, rest) of every step, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def dockerfile_copies() -> list[tuple[str, str]]:
    """Return (path in the checkout, path in the image) of everything that is copied."""
    found, folder = [], "/"
    for instruction, rest in dockerfile_steps():
        if instruction == "WORKDIR":
            folder = rest
        if instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = target.removeprefix("./")
                # A folder's content is copied, a file goes under its own name.
                name = "" if (ROOT / source).is_dir() else Path(source).name
                found.append((source, str(Path(folder) / place / name)))
    return found


def image_environment() -> dict[str, str]:
    """Return what the image sets for every process."""
    return dict(
        word.split("=", 1)
        for instruction, rest in dockerfile_steps()
        if instruction == "ENV"
        for word in rest.split()
    )


def image_folder() -> str:
    """Return the folder in which the image's commands start."""
    return [rest for instruction, rest in dockerfile_steps() if instruction == "WORKDIR"][-1]
