"""Check what an experiment refers to before anything is made: files, folders, first records.

The checks run nothing and do not use the network: remote sources are named as not checked. A source
that was fetched already may be missing.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import (
    ExperimentError,
    MdelError,
    NothingWantedError,
    listed,
    unknown_name_message,
)
from mdel_assets.experiment.experiment import TEST_SHARD, VALIDATION_SHARD, Experiment, Shard
from mdel_assets.experiment.rules import (
    mistakes_of_mixing,
    mistakes_of_scoring,
    mistakes_of_training,
    notes_on_splits,
)
from mdel_assets.experiment.shard_locations import (
    repeated_locations,
    require_web_address,
    shard_keys,
    write_out,
)
from mdel_assets.line.lineage import Lineage
from mdel_assets.maintenance.recipe_checks import mistakes_of_tokenizers
from mdel_assets.model_families.settings import shape_of
from mdel_assets.tasks.task_checks import mistakes_of_tasks, notes_on_tasks
from mdel_assets.training.adapter_checks import mistakes_of_adapters

if TYPE_CHECKING:
    from mdel_assets.data.shard_counts import ShardCounts

_log = logging.getLogger(__name__)
_NUM_SOURCES = 20
_NUM_LABELS = 12
_KEYS = {"validation": VALIDATION_SHARD, "test": TEST_SHARD}


@dataclasses.dataclass
class Findings:
    """What was found: mistakes, possible mistakes (doubts), and notes."""

    mistakes: list[str] = dataclasses.field(default_factory=list)
    doubts: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def refuse_mistakes(lineage: Lineage) -> None:
    """Raise `ExperimentError` with all mistakes that `look_around` finds; log its doubts."""
    findings = look_around(lineage)
    for doubt in findings.doubts:
        _log.warning(doubt)
    if findings.mistakes:
        told = listed(findings.mistakes)
        raise ExperimentError(f"The experiment '{lineage.experiment.name}'{told}")


def look_around(lineage: Lineage) -> Findings:
    """Return what a quick look at an experiment's sources and models shows."""
    findings = Findings()
    shards = list(_shards(lineage, findings))
    for shard in shards[:_NUM_SOURCES]:
        _look_at_records(lineage, shard, findings)
    if len(shards) > _NUM_SOURCES:
        findings.notes.append(f"{len(shards) - _NUM_SOURCES} more sources: not checked")
    _look_at_seed(lineage, findings)
    _look_at_other_models(lineage.experiment, findings)
    findings.mistakes += mistakes_of_tokenizers(lineage)
    findings.mistakes += mistakes_of_tasks(lineage.experiment)
    findings.notes += notes_on_splits(lineage.experiment)
    findings.notes += notes_on_tasks(lineage.experiment)
    return findings


def _shards(lineage: Lineage, findings: Findings) -> Iterator[Shard]:
    """Yield the local shards that exist; note the others."""
    experiment, source = lineage.experiment, lineage.experiment.source
    train: list[str] = []
    before = len(findings.mistakes)
    for pattern in source.train:
        try:
            train += write_out(pattern, folder=experiment.folder)
        except ExperimentError as error:
            hint = _hint(experiment, experiment.place(pattern))
            findings.mistakes.append(str(error).removesuffix(".") + hint)
    held_out = {
        role: experiment.place(location)
        for role, location in (("validation", source.validation), ("test", source.test))
        if location
    }
    findings.mistakes += repeated_locations(
        {"train": train, **{role: [location] for role, location in held_out.items()}}
    )
    if len(findings.mistakes) == before:
        try:
            experiment.shards()
        except ExperimentError as error:
            findings.mistakes.append(str(error))
    keys = shard_keys(train, taken=[_KEYS[role] for role in held_out])
    given = [("train", key, location) for key, location in zip(keys, train, strict=True)]
    given += [(role, _KEYS[role], location) for role, location in held_out.items()]
    for role, key, location in given:
        _doubt_where_the_shell_has_another(f"source.{role}", experiment, location, findings)
        if "://" in location:
            _look_at_address(f"source.{role}", location, findings)
        elif _is_there(Path(location).expanduser(), is_folder=source.layout == "folders"):
            yield Shard.model_construct(key=key, location=location, role=role)
        elif not _exists(lineage.artifact("raw_pile_shard", key).record_path):
            what = "folder" if source.layout == "folders" else "file"
            hint = _hint(experiment, location)
            findings.mistakes.append(f"source.{role}: there is no {what} '{location}'{hint}")


def _is_there(path: Path, *, is_folder: bool) -> bool:
    return _exists(path) and (path.is_dir() if is_folder else path.is_file())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # Such as a name that is too long.
        return False


def _hint(experiment: Experiment, location: str) -> str:
    """Return where a relative path starts, and whether it exists in the working folder."""
    if experiment.folder is None or not location.startswith(f"{experiment.folder}/"):
        return ""
    told = f". Relative paths start at the YAML's folder, {experiment.folder}"
    written = Path(location).relative_to(experiment.folder)
    return f"{told}; the working folder has such a path" if _exists(written) else told


def _doubt_where_the_shell_has_another(
    what: str, experiment: Experiment, place: str, findings: Findings
) -> None:
    """Note that a relative path exists in the YAML's folder and in the working folder."""
    if experiment.folder is None or not place.startswith(f"{experiment.folder}/"):
        return
    here, there = Path(place).relative_to(experiment.folder), Path(place)
    if _exists(here) and _exists(there) and not here.samefile(there):
        findings.doubts.append(
            f"{what}: {place} in the YAML's folder is read, not '{here}' in the working folder"
        )


def _look_at_address(place: str, location: str, findings: Findings) -> None:
    from mdel_assets.data.hub_files import hub_file
    from mdel_assets.data.sample_corpus import SHARD_NAMES

    name = location.removeprefix("sample://")
    if name != location:
        if name not in SHARD_NAMES:
            told = unknown_name_message("sample shard", name, SHARD_NAMES)
            findings.mistakes.append(f"{place}: {told}")
        return
    try:
        if location.startswith("hf://"):
            hub_file(location)
        else:
            require_web_address(location)
    except MdelError as error:
        findings.mistakes.append(f"{place}: {error}")
        return
    findings.notes.append(f"{place}: {location} is remote and was not checked")


def _look_at_records(lineage: Lineage, shard: Shard, findings: Findings) -> None:
    from mdel_assets.data.first_records import count_first_records

    if lineage.artifact("shard_documents", shard.key).read_record():
        return
    experiment = lineage.experiment
    domains = None if experiment.clusters else experiment.domain_table
    place = f"source.{shard.role}: {shard.location}"
    try:
        path = Path(shard.location).expanduser()
        counts = count_first_records(path, domains=domains, source=experiment.source)
    except NothingWantedError as error:
        # The wanted records may come later in the file.
        findings.doubts.append(f"source.{shard.role}, judging by its first records: {error}")
        return
    except (MdelError, OSError) as error:
        findings.mistakes.append(f"source.{shard.role}: {error}")
        return
    if counts is None:
        findings.notes.append(f"{place}: was not read")
        return
    shown = [f"{key} {count.num_documents:,}" for key, count in counts.domains.items()]
    told = f"{place}: {counts.num_lines:,} records read, {counts.num_documents:,} documents"
    if domains is not None:
        told += f": {', '.join(shown[:_NUM_LABELS])}" + ", ..." * (len(shown) > _NUM_LABELS)
    _doubt_where_many_are_rejected(experiment, place, counts, findings)
    if counts.num_rejects:
        told += f"; {counts.num_rejects:,} rejected ({_in_words(counts.rejects)})"
    if counts.unknown_labels:
        told += f"; labels of no domain: {_in_words(counts.unknown_labels)}"
    findings.notes.append(told)


def _doubt_where_many_are_rejected(
    experiment: Experiment, place: str, counts: "ShardCounts", findings: Findings
) -> None:
    """Note if the shard would be refused in case all of it is like its first records."""
    rate, allowed = counts.num_rejects / counts.num_lines, experiment.source.max_reject_rate
    if rate > allowed:
        findings.doubts.append(
            f"{place}: a share of {rate:.2g} of its first records is rejected; "
            f"source.max_reject_rate allows {allowed:.2g} of a shard"
        )


def _in_words(counts: dict[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:_NUM_LABELS]]
    return ", ".join(shown) + ", ..." * (len(counts) > _NUM_LABELS)


def _look_at_seed(lineage: Lineage, findings: Findings) -> None:
    """Compare the experiment with the seed's configuration, wherever there is one to read."""
    experiment, made = lineage.experiment, lineage.artifact("seed_model")
    path = experiment.seed_model.path
    if path is None:
        findings.mistakes += mistakes_of_adapters(experiment, None)
        return
    record = made.read_record()
    is_made = record is not None and record.config.get("path") == path
    folder = made.folder if is_made else Path(experiment.place_of_model(path)).expanduser()
    if not is_made and not _look_at_model("seed_model.path", experiment, path, findings):
        return
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        shape = shape_of(config)
    except (OSError, ValueError, AttributeError) as error:
        findings.mistakes.append(f"seed_model.path: {folder}/config.json cannot be read: {error}")
        return
    findings.notes.append(
        f"seed_model: {config.get('model_type')} of {shape.num_layers} layers that reads "
        f"{shape.max_positions or 'any number of'} tokens"
    )
    findings.mistakes += mistakes_of_training(experiment, shape)
    findings.mistakes += mistakes_of_scoring(experiment, shape)
    findings.mistakes += mistakes_of_mixing(experiment, config)
    findings.mistakes += mistakes_of_adapters(experiment, folder)


def _look_at_other_models(experiment: Experiment, findings: Findings) -> None:
    for name, source in experiment.evaluation.references.items():
        place = f"evaluation.references.{name}.path"
        _look_at_model(place, experiment, source.path, findings)
    for name, recipe in experiment.merges.items():
        for model in dict.fromkeys(recipe.model_names):
            own, adapter = experiment.adapter_of(model)
            if adapter is not None:
                _look_at_adapter(f"merges.{name}", experiment, adapter, findings)
            if ":" not in own and own not in experiment.model_keys:
                _look_at_model(f"merges.{name}", experiment, own, findings)


def _look_at_adapter(place: str, experiment: Experiment, name: str, findings: Findings) -> None:
    from mdel_assets.hub.sources import hub_reference
    from mdel_assets.store.lora_files import adapter_config

    folder = experiment.place_of_model(name)
    if hub_reference(folder):
        findings.notes.append(f"{place}: {name} is taken as a Hub id and not checked")
        return
    try:
        adapter_config(Path(folder).expanduser())
    except MdelError as error:
        findings.mistakes.append(f"{place}: {error}")


def _look_at_model(place: str, experiment: Experiment, name: str, findings: Findings) -> bool:
    """Return whether a model is a folder that can be loaded; note what is wrong with it."""
    from mdel_assets.hub.sources import hub_reference
    from mdel_assets.training.package_models import PACKAGE_MODELS

    sample = name.removeprefix("sample://")
    if sample != name:
        if sample not in PACKAGE_MODELS:
            told = unknown_name_message("sample model", sample, PACKAGE_MODELS)
            findings.mistakes.append(f"{place}: {told}")
        return False
    folder = experiment.place_of_model(name)
    path = Path(folder).expanduser()
    _doubt_where_the_shell_has_another(place, experiment, folder, findings)
    if folder == name and not path.is_absolute():
        if experiment.folder and _exists(path):
            findings.mistakes.append(
                f"{place}: '{name}' is a folder in the working folder, but relative paths start "
                f"at the YAML's folder, {experiment.folder}. Write the path from there"
            )
            return False
        if hub_reference(name):
            told = f"{place}: {name} is not a local folder; taken as a Hub id and not checked"
            findings.notes.append(told)
            return False
    if mistake := _folder_mistake(path):
        findings.mistakes.append(f"{place}: {mistake}")
    return not mistake


def _folder_mistake(folder: Path) -> str | None:
    if not folder.is_dir():
        return (
            f"there is no folder '{folder}'. Give one made by save_pretrained, or a Hub id "
            f"OWNER/NAME"
        )
    wanted: dict[str, Any] = {
        "config.json": (folder / "config.json").is_file(),
        "weights in safetensors": any(folder.glob("*.safetensors")),
    }
    missing = [what for what, is_there in wanted.items() if not is_there]
    if missing:
        return f"'{folder}' has no {' and no '.join(missing)}. Give one made by save_pretrained"
    return None
