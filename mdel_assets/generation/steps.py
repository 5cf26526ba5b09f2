"""The step that writes what models sound like; `kinds.py` declares it."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mdel_assets.errors import GenerationError, MdelError
from mdel_assets.experiment.model_keys import POSTERIOR, SEED
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.records import Record

if TYPE_CHECKING:
    from mdel_assets.generation.beginnings import Beginning
    from mdel_assets.generation.samples import Sample
    from mdel_assets.generation.speakers import Speakers

SAMPLES_NAME = "samples.jsonl"
PAGE_NAME = "samples.md"


def write_sample_texts(tasks: Mapping[str, Task]) -> Iterator[tuple[str, Written | MdelError]]:
    """Let models continue held-out beginnings, one after the other; one that fails stops no other.

    The seed stays loaded, so that of the others only what differs is read. All experts together
    are kept in the precision in which they are stored.
    """
    from mdel_assets.generation.samples import sample_texts
    from mdel_assets.generation.samples_markdown import samples_markdown
    from mdel_assets.generation.speakers import Speakers

    lineage = next(iter(tasks.values())).lineage
    evaluation = lineage.experiment.evaluation
    speakers, beginnings = Speakers(lineage), _beginnings(lineage)
    with contextlib.suppress(MdelError):
        speakers.load(SEED)
    for key, task in tasks.items():
        if key == POSTERIOR:
            speakers.release(SEED)
            speakers = Speakers(lineage, is_widened=False)
        try:
            _require_memory(speakers, key)
            samples = sample_texts(
                speakers.load(key),
                beginnings,
                settings=evaluation.sample_texts,
                seed=evaluation.seed,
            )
        except MdelError as error:
            yield key, error
            continue
        finally:
            if key != SEED:
                speakers.release(key)
        lines = "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in samples)
        (task.folder / SAMPLES_NAME).write_text(lines, "utf-8")
        (task.folder / PAGE_NAME).write_text(samples_markdown({key: samples}), "utf-8")
        yield key, Written(counts={"num_samples": len(samples)}, shown=samples)


def _beginnings(lineage: Lineage) -> list["Beginning"]:
    """Return what every model is asked to continue, domain by domain."""
    from mdel_assets.generation.beginnings import CHARACTERS_PER_TOKEN, draw_beginnings

    evaluation = lineage.experiment.evaluation
    settings = evaluation.sample_texts
    return [
        each
        for domain in lineage.present_domains()
        for each in draw_beginnings(
            lineage.folder("domain_dataset", domain),
            domain,
            count=settings.num_documents,
            num_characters=settings.prompt_characters,
            num_following=CHARACTERS_PER_TOKEN * settings.max_new_tokens,
            seed=evaluation.seed,
        )
    ]


def _require_memory(speakers: "Speakers", key: str) -> None:
    import psutil

    if key != POSTERIOR:
        return
    needed, there = speakers.bytes_at_most(key), psutil.virtual_memory().available
    if needed > there:
        raise GenerationError(
            f"All experts together take {needed / 2**30:.1f} GiB of memory, and this machine has "
            f"{there / 2**30:.1f} GiB left. Set evaluation.sample_texts.ensemble to false, or run "
            f"sample_texts where there is more."
        )


def current_samples(lineage: Lineage, key: str) -> Record | None:
    """Return the record of a model's samples if they are up to date."""
    if key not in lineage.registry["sample_texts"].keys(lineage.experiment):
        return None
    try:
        return lineage.current("sample_texts", key)
    except MdelError:
        return None


def read_samples(lineage: Lineage, key: str) -> list["Sample"]:
    """Return a model's samples; none where they were not made of the model as it is now."""
    from mdel_assets.generation.samples import Sample

    artifact = lineage.artifact("sample_texts", key)
    if current_samples(lineage, key) is None:
        return []
    lines = (artifact.folder / SAMPLES_NAME).read_text("utf-8").splitlines()
    return [Sample(**json.loads(line)) for line in lines]


def side_by_side(lineage: Lineage, key: str) -> dict[str, list["Sample"]]:
    """Return a model's samples, and those of the seed and of all experts together beside them."""
    found = {each: read_samples(lineage, each) for each in dict.fromkeys([key, SEED, POSTERIOR])}
    return {each: samples for each, samples in found.items() if samples}
