"""Models of a merge from outside the experiment: folders, and repositories on the Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdel_assets.hub.sources import HubReference, fetch_model, hub_reference, resolve_commit
from mdel_assets.merging.members import folder_digest
from mdel_assets.store.records import Record

HUB_PREFIX = "hub:"


def outside_digest(
    name: str,
    *,
    before: Record | None,
    notes: Path | None = None,
    with_tokenizer: bool = False,
) -> str:
    """Return what stands for a model's content: a folder's digest, or the commit of a Hub id.

    A path or a branch says nothing about what is in it. ``with_tokenizer`` says whether a folder's
    tokenizer counts; a commit covers it. ``before`` is the record of the merge as it
    was made last, ``notes`` the folder for what was read of others.

    Raises:
        MergeError: it is neither a folder nor a Hub id.
        HubError: the Hub has no such model.

    """
    reference = outside_reference(name)
    if reference is None:
        return folder_digest(Path(name), notes=notes, with_tokenizer=with_tokenizer)
    mark = f"{HUB_PREFIX}{reference.name}@"
    members = _members(before.config) if before else []
    known = [entry.removeprefix(mark) for entry in members if entry.startswith(mark)]
    return mark + resolve_commit(reference, recorded=known[0] if known else None)


def _members(config: Mapping[str, Any]) -> list[str]:
    """Return what stands for a merge's models in its identity, for those of all its stages."""
    within = [name for stage in config.get("stages", {}).values() for name in _members(stage)]
    named = [name for name, *_ in config.get("members", [])]
    return [*(part for name in named for part in digests_in(name)), *within]


def digests_in(digest: str) -> list[str]:
    """Return what stands for a model and, if one is merged into it, for its adapter."""
    return digest.split("+")


def outside_folder(name: str, *, digest: str) -> Path:
    """Return the folder of the model whose `outside_digest` is ``digest``; fetch a Hub model."""
    reference = outside_reference(name)
    if reference is None:
        return Path(name).expanduser()
    return fetch_model(reference, digest.rpartition("@")[2])


def outside_reference(name: str) -> HubReference | None:
    """Return the Hub repository that a recipe's model names; None for anything else."""
    # A recipe's Hub ids have an owner: a single word is a misspelt name of the experiment.
    return hub_reference(name) if "/" in name else None
