"""Common rules for the sections of an experiment: strict keys, finite numbers, names, bounds."""

import re
import types
import typing
from collections.abc import Collection, Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

# Bounds far above any real run, so that a typing mistake is not taken for a size.
PositiveInt = Annotated[int, Field(ge=1, le=10**15)]
BatchSize = Annotated[int, Field(ge=1, le=10**6)]
# As many seeds as NumPy's generators accept.
NUM_SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, le=NUM_SEEDS - 1)]
Text = Annotated[str, Field(min_length=1)]
# A longer name makes paths that file systems refuse.
MAX_NAME_LENGTH = 100


class Section(BaseModel):
    """A section of the YAML: unknown keys refused, values immutable, numbers finite.

    ``added_later`` names settings that came after artifacts had been made without them. Their
    default means what was done before, and keeps what was made up to date.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    added_later: ClassVar[frozenset[str]] = frozenset()

    def made_of(
        self, include: Collection[str] | None = None, *, exclude: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return the settings as what an artifact is made of has them, for its fingerprint.

        Those of ``include`` (None: all), without those of ``exclude`` here and in the sections
        inside, and without settings of ``added_later`` that are left at their default.
        """
        chosen = None if include is None else set(include)
        content = self.model_dump(mode="json", include=chosen, exclude=set(exclude))
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.added_later and value == field.get_default(call_default_factory=True):
                content.pop(name, None)
            elif name in content and isinstance(value, Section):
                content[name] = value.made_of(exclude=exclude)
        return content

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name:
            taken = set(_types_in(cls.model_fields[info.field_name].annotation))
            if taken & {int, float} and bool not in taken:
                raise ValueError(f"expected a number, got {str(value).lower()}")
        return value


def name_mistake(name: str) -> str | None:
    """Return why ``name`` cannot name a folder and a partition; None if it can."""
    if len(name) > MAX_NAME_LENGTH:
        return f"'{name[:20]}...' has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
        return (
            f"'{name}' is not allowed as a name: use letters (a-z, A-Z), digits, . _ - and "
            f"begin with a letter or a digit"
        )
    return None


def _types_in(annotation: Any) -> Iterator[Any]:
    """Yield a field's type, and the members of a union."""
    yield annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        for inner in typing.get_args(annotation):
            yield from _types_in(inner)
