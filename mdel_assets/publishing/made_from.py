"""A model whose inputs are others by now is not published: its card would tell of the others.

Cards, and the checks before a publication, read the experiment and the datasets as they are. That
is right for a model whose inputs, and their inputs down to the datasets, are those in its record.
"""

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from mdel_assets.errors import PublishingError
from mdel_assets.experiment.merge_recipe import RECIPE_NAME
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.presence import DATASET, has_training_text
from mdel_assets.merging.members import stage_of
from mdel_assets.merging.recipe_members import recipe_members
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.looking_once import looking_once

_REMEDY = "which text it read is not known. Make it anew ('mdel run'), then publish."


@looking_once()
def refuse_other_inputs(lineage: Lineage, artifact: Artifact) -> None:
    """Raise `PublishingError` where a model, or one that it was made from, has other inputs by now.

    Other settings and other code do not count, nor does what the datasets were made from.
    """
    absent = lineage.unrouted_domains()
    left = [artifact]
    # The list grows while it is walked.
    for made in left:
        record = made.read_record()
        assert record
        now = {entry.label: entry for entry in lineage.inputs(made.kind, made.key)}
        for label in sorted({*record.inputs, *now}):
            if change := _change(label, record.inputs.get(label), now.get(label), absent=absent):
                raise PublishingError(f"{made.label} was made {change}: {_REMEDY}")
        if made.kind == "merged_model":
            _refuse_other_recipe(lineage, made)
        left += [entry for entry in now.values() if entry.kind != DATASET and entry not in left]


def _change(
    label: str, recorded: str | None, entry: Artifact | None, *, absent: Collection[str]
) -> str | None:
    """Say how an input differs from the one whose fingerprint was recorded; None if it does not."""
    record = entry.read_record() if entry else None
    now = record.fingerprint if record else None
    if entry and entry.kind == DATASET and entry.key in absent:
        # It has no text, nor needs to be there; one that has text is of an earlier corpus.
        is_same = record is None or now != recorded or not has_training_text(record)
    else:
        is_same = recorded is not None and recorded == now
    if is_same:
        return None
    if recorded is None:
        return f"without {label}, which belongs to it by now"
    if entry is None:
        return f"from {label}, which does not belong to it by now"
    return f"from {label}, which is another by now, or gone"


def _refuse_other_recipe(lineage: Lineage, merged: Artifact) -> None:
    """Raise `PublishingError` where a recipe names other models than when it was merged.

    Its own document comes last, and each stage before those that take it.
    """
    written = (merged.folder / RECIPE_NAME).read_text("utf-8")
    for content in reversed(list(yaml.safe_load_all(written))):
        recipe, then = content.get("name", merged.key), _models_in(content)
        now = [stage_of(one.name) or one.name for one in recipe_members(lineage, recipe)]
        if then != now:
            raise PublishingError(
                f"{merged.label} was made of {', '.join(then)}, and the recipe '{recipe}' names "
                f"{', '.join(now)} by now: {_REMEDY}"
            )


def _models_in(content: Mapping[str, Any]) -> list[str]:
    """Return the models of a written recipe in the order of its members: the base comes last."""
    sources = [source for part in content.get("slices", []) for source in part["sources"]]
    # A model of several slices is one member.
    cut = list(dict.fromkeys(source["model"] for source in sources))
    names = cut or [entry["model"] for entry in content["models"]]
    base = content.get("base_model")
    return [name for name in names if name != base] + ([base] if base else [])
