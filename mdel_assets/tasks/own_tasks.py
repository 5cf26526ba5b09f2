"""Tasks that an experiment defines itself: YAML files of the harness in a folder, and their data.

Only YAML is read here, not the harness: identities need what a task is made of, and are asked for
often. Data files in a task's YAML are relative to the folder of that YAML.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mdel_assets.errors import TaskError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.store.digests import file_digest, text_digest
from mdel_assets.tasks.dataset_files import files_named_for

# The loaders of `datasets` that read files of this machine; other names are of the Hub.
_FILE_LOADERS = ("json", "csv", "parquet", "arrow", "text", "xml")
# The arguments of theirs that say where the data lies.
_PLACES = frozenset({"data_files", "data_dir"})
FUNCTION = "!function"


@dataclasses.dataclass(frozen=True)
class OwnTask:
    """A task or a group: its name, its YAML file, and its content with what that includes.

    A function of Python stands as the text ``!function NAME`` in the content; ``code_folders`` are
    those of the YAML files that name functions, where the harness looks for their code.
    """

    name: str
    path: Path
    content: Mapping[str, Any]
    code_folders: Sequence[Path]

    @property
    def is_group(self) -> bool:
        """Whether it only lists other tasks."""
        return "group" in self.content

    @property
    def tags(self) -> list[str]:
        """The names that it shares with other tasks."""
        return _as_list(self.content.get("tag"))

    @property
    def dataset(self) -> str:
        """How messages call its dataset."""
        files = [str(path) for path in self.files()]
        name = self.content.get("dataset_name")
        of_hub = f"{self.content.get('dataset_path')}{f', {name}' if name else ''}"
        return ", ".join(files) or of_hub

    def files(self) -> list[Path]:
        """Return the local files and folders of its dataset, whether they are there or not."""
        return [path for place in self._places() for path in self._found(place)]

    def files_of_split(self, split: str) -> list[Path] | None:
        """Return the local files of one split of its dataset; None where they are not local.

        A file that is named without a split is of the split `train`; those of a folder are told
        apart by their names. The list is empty where they do not say.

        Raises:
            TaskError: one of them has to be fetched.

        """
        if not self._is_local:
            return None
        arguments = self.content.get("dataset_kwargs") or {}
        named = arguments.get("data_files")
        if named is not None:
            named = named if isinstance(named, Mapping) else {"train": named}
            places = list(_leaves(named.get(split)))
            if far := [place for place in places if "://" in place]:
                raise TaskError(f"{far[0]} of task '{self.name}' is not here yet; a run fetches it")
            return [path for place in places for path in self._found(place)]
        folder = arguments.get("data_dir") or (self._is_folder and self.content["dataset_path"])
        return files_named_for(Path(self._place(str(folder))), split) if folder else []

    def missing_files(self) -> list[Path]:
        """Return those that are not there."""
        return [path for path in self.files() if not path.exists()]

    def with_whole_paths(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return a content of the same task with its local places written out."""
        if not self._is_local:
            return dict(content)
        changed: dict[str, Any] = {}
        arguments = dict(content.get("dataset_kwargs") or {})
        for name in _PLACES & arguments.keys():
            arguments[name] = _mapped(arguments[name], self._place)
        if arguments:
            changed["dataset_kwargs"] = arguments
        if self._is_folder:
            changed["dataset_path"] = self._place(str(content["dataset_path"]))
        return {**content, **changed}

    def made_of(self) -> dict[str, Any]:
        """Return what the task is, by content: local places are replaced by digests."""
        content = dict(self.content)
        if self._is_local:
            arguments = dict(content.get("dataset_kwargs") or {})
            for name in _PLACES & arguments.keys():
                arguments[name] = _mapped(arguments[name], self._digests)
            content["dataset_kwargs"] = arguments
        if self._is_folder:
            content["dataset_path"] = self._digests(str(content["dataset_path"]))
        if self.code_folders:
            content["code"] = [_code(folder) for folder in self.code_folders]
        return content

    @property
    def _is_folder(self) -> bool:
        place = str(self.content.get("dataset_path") or "")
        is_path = place.startswith((".", "/", "~"))
        return bool(place) and (is_path or (self.path.parent / place).is_dir())

    @property
    def _is_local(self) -> bool:
        return self._is_folder or self.content.get("dataset_path") in _FILE_LOADERS

    def _places(self) -> Iterator[str]:
        if not self._is_local:
            return
        if self._is_folder:
            yield str(self.content["dataset_path"])
        arguments = self.content.get("dataset_kwargs") or {}
        for name in sorted(_PLACES):
            yield from (each for each in _leaves(arguments.get(name)) if "://" not in each)

    def _place(self, written: str) -> str:
        if "://" in written:
            return written
        return str(self.path.parent / Path(written).expanduser())

    def _digests(self, written: str) -> str | list[str]:
        return written if "://" in written else [_digest(path) for path in self._found(written)]

    def _found(self, written: str) -> list[Path]:
        path = Path(self._place(written))
        if not any(sign in path.name for sign in "*?["):
            return [path]
        return sorted(path.parent.glob(path.name)) or [path]


def own_tasks(folder: Path) -> dict[str, OwnTask]:
    """Return the tasks and groups that a folder's YAML files define, by name.

    Raises:
        TaskError: it is no folder, or one of its YAML files cannot be read.

    """
    if not folder.is_dir():
        raise TaskError(
            f"evaluation.tasks_folder: there is no folder '{folder}'. Give a folder with tasks in "
            f"lm-evaluation-harness's YAML; a relative path starts at the experiment's YAML"
        )
    found: dict[str, OwnTask] = {}
    for path in sorted(folder.rglob("*.yaml")):
        if task := read_task(path):
            found[task.name] = task
    return found


def read_task(path: Path) -> OwnTask | None:
    """Return the task or the group in a YAML file of the harness; None if it names neither.

    Raises:
        TaskError: the file cannot be read.

    """
    content, code_folders = _read(path, ())
    name = content.get("group") or content.get("task")
    return OwnTask(name, path, content, code_folders) if isinstance(name, str) else None


def definition_digest(name: str, own: Mapping[str, OwnTask]) -> str | None:
    """Return a digest of what an own task is made of; None for one that the harness defines.

    A group or a tag may hold any task of the folder, and so is made of all.
    """
    if name not in own and not any(name in task.tags for task in own.values()):
        return None
    is_one = name in own and not own[name].is_group
    parts = [own[name]] if is_one else [own[each] for each in sorted(own)]
    content = [part.made_of() for part in parts]
    return text_digest(json.dumps(content, sort_keys=True, default=str))


def own_tasks_of(experiment: Experiment) -> dict[str, OwnTask]:
    """Return the tasks that the experiment defines itself.

    Raises:
        TaskError: its folder of tasks cannot be read.

    """
    folder = experiment.evaluation.tasks_folder
    return own_tasks(Path(experiment.place(folder)).expanduser()) if folder else {}


def listed_members(group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a group's ``task`` lists, and groups written inside of it."""
    listed = group.get("task")
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, str):
            yield each
        elif isinstance(each.get("task"), str):
            yield each["task"]
        else:
            yield from filter(None, [each.get("group")])
            yield from listed_members(each)


class _Reader(yaml.SafeLoader):
    """Reads the harness's YAML and runs none of its functions."""


def _function_name(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return f"{FUNCTION} {loader.construct_scalar(node)}"


_Reader.add_constructor(FUNCTION, _function_name)


def _read(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[Path]]:
    """Return a YAML's content over that of the files that it includes, and folders of code."""
    if path in above:
        raise TaskError(f"evaluation.tasks_folder: {path} includes itself. Take one `include` out")
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Reader)  # noqa: S506  (a safe loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise TaskError(
            f"evaluation.tasks_folder: {path} cannot be read: {told}. Correct it, or take it out"
        ) from error
    if not isinstance(content, dict):
        raise TaskError(
            f"evaluation.tasks_folder: {path} holds no settings of a task. Correct it, or take it "
            f"out"
        )
    merged: dict[str, Any] = {}
    folders = [path.resolve().parent] if FUNCTION in json.dumps(content, default=str) else []
    for place in _as_list(content.pop("include", None)):
        included, of_included = _read(path.parent / place, (*above, path))
        merged |= included
        folders += [folder for folder in of_included if folder not in folders]
    return merged | content, folders


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif value is not None:
        for inner in value:
            yield from _leaves(inner)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    return value if value is None else [_mapped(inner, change) for inner in value]


def _code(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's Python files, by their places in it."""
    files = sorted(folder.rglob("*.py"))
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def _digest(path: Path) -> str:
    """Return the digest of a file, or of a folder's files; ``missing`` where there is none."""
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        return "missing"
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return text_digest("".join(f"{file.relative_to(path)} {file_digest(file)}\n" for file in files))
