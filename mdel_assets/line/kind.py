"""Kinds: each kind of artifact is declared once, beside the stage that makes it.

A `Kind` is a row: name, keys, place, code version, what it is made of, and the function that writes
it into a staging folder. The walk along the line, identities, staleness, locks, publishing, workers
and the partitions and dependencies of Dagster are derived from these rows. `mdel_assets.kinds`
holds all of them in the order of the line.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.model_keys import Family, ModelKey
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.price import Price
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Identity, Record

if TYPE_CHECKING:
    from mdel_assets.line.lineage import Lineage
    from mdel_assets.training.sizes import Sizes

ONLY_ONE = ("",)


class Input(NamedTuple):
    """An artifact that another is made from, by its kind and its key."""

    kind: str
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """One artifact that is being made.

    ``stage`` is the staging folder; None in a process that trains along while another one writes.
    Contexts that are entered in ``until_published`` end after the artifact is in its place.
    """

    lineage: "Lineage"
    key: str
    artifact: Artifact
    identity: Identity
    stage: Path | None
    conditions: Conditions
    until_published: ExitStack

    @property
    def folder(self) -> Path:
        """The staging folder of the process that writes."""
        assert self.stage
        return self.stage

    @property
    def work_folder(self) -> Path:
        """A folder for resumable work in progress, removed once the artifact is made."""
        return self.lineage.work_folder(self.artifact.work_name(self.identity))


@dataclasses.dataclass(frozen=True)
class Written:
    """What a kind's function says of what it wrote into the staging folder.

    ``counts``, ``details`` and ``making`` go into the record. ``config`` stands in for the
    identity's where that is known only now, as for a source. ``shown`` is what a page can show
    without reading the artifact. ``known_digests`` are those of files that need not be read for
    the record, besides links to files of `Kind.links_to`. ``after`` is called with the record once
    it is published. ``lacking`` says why some of it could not be made: the rest is published, with
    a ``config`` that leaves it to be made anew, and whoever asked for the artifact is told.
    """

    counts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    making: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    shown: Any = None
    known_digests: Mapping[tuple[int, int], str] | None = None
    after: Callable[[Record], None] | None = None
    lacking: MdelError | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One of ``of`` equal parts of a work, by its number from 0."""

    number: int
    of: int


ALL = Part(0, 1)


@dataclasses.dataclass(frozen=True)
class Parts:
    """How the work of a kind is divided among jobs, before its artifacts are written.

    ``work`` does one part for several keys, into their work folders, and yields each key with its
    error, or None. ``whole`` tells for which keys all parts are done: writing those is little work.
    """

    work: Callable[[Mapping[str, Task], Part], Iterator[tuple[str, MdelError | None]]]
    whole: Callable[[Mapping[str, Task]], Sequence[str]]


Write = Callable[[Task], Written]
# For keys that share work: yields each as soon as it is written, or why it could not be.
WriteTogether = Callable[[Mapping[str, Task]], Iterator[tuple[str, Written | MdelError]]]


def model_key(family: str, key: str) -> str:
    """Return how a model is called among all models: by its family, and its key there."""
    return Family(family).key(key) if key else family


def model_input(kinds: Iterable["Kind"], model: str) -> Input:
    """Return the kind, of ``kinds``, and the key of the model that is called ``model``.

    Raises:
        KeyError: no kind of model has such a key.

    """
    families = {k.family: k for k in kinds if k.family and not k.replicate_of}
    if model in families:
        return Input(families[model].name)
    key = ModelKey.parse(model)
    kind = families.get(key.family or "")
    if kind is None or kind.keys is only_one or not key.name:
        raise KeyError(model)
    return Input(kind.name, key.name)


def always(experiment: Experiment) -> bool:
    """Whatever the experiment says."""
    return True


def by_inputs(experiment: Experiment) -> bool:
    """For `Kind.is_trained`: what is made from trained things, and reads no seed itself."""
    return False


def only_one(experiment: Experiment) -> Sequence[str]:
    """The keys of a kind with one artifact."""
    return ONLY_ONE


def _nothing(experiment: Experiment, key: str) -> Sequence[Input]:
    return ()


def _no_settings(lineage: "Lineage", key: str) -> dict[str, Any]:
    return {}


def _all(lineage: "Lineage", inputs: Sequence[Input]) -> Sequence[Input]:
    return inputs


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of artifact.

    - ``name``: the asset's name, which records, commands and pages use.
    - ``place``: its folder under the experiment's, with ``{key}`` where the key stands. Where the
      folder holds other artifacts too, ``record`` is what the record's name begins with; with
      ``shares_folder`` the folder's own record is this kind's.
    - ``code_version``: raised when the code makes something else of the same config and inputs.
    - ``keys``: the keys that an experiment declares, the partitions in Dagster; `ONLY_ONE` for a
      kind with one artifact. ``is_in``: whether the experiment has the kind at all.
    - ``absent``: of those keys, the ones that turn out to be nothing where the corpus lacks the
      given domains, each with the reason. A kind without it never depends on that.
    - ``inputs``: what an experiment's artifact of a key is made from. ``takes`` leaves out those
      that are not there to be read (an absent domain's dataset, a model without a report).
    - ``config``: the settings that it is made of.
    - ``write`` makes one, ``write_together`` several keys in one go.
    - ``is_heavy``: whether it can be a job of a cluster (`compute.yaml`).
    - ``parts``: how several jobs share the work, if they can. ``resumes``: whether a job that was
      killed is gone on with; another begins anew.
    - ``links_to``: the kind whose files its folder may hold links to.
    - ``operations``: for a training or a scoring, the floating-point operations of one artifact.
    - ``price``: what making one artifact takes, foretold; None where that is not known.
    - ``family``: for a model, what its key among the models begins with.
    - ``current``: for a source, which has no identity beforehand: its record if it is up to date.
    - ``is_in_line``: whether a run of the whole line makes it. Publications are made when asked.
    - ``takes_what_is_there``: one of its inputs that failed does not keep it from being made.
    - ``is_report``: whether it judges models, and so belongs to a scheduled report.
    - ``follows_inputs``: whether it can be made by itself whenever its inputs change: it is cheap,
      or the point of everything before it. Trainings are left to schedules and people.
    - ``is_trained``: for a kind that exists once per training seed where the experiment asks for
      replicates (`replicates.py`): whether it reads that seed itself; else it does so as far as
      something that it is made from does. None for a kind without replicates.
    - ``replicate_of``: for a kind of replicates, the kind that is made again.
    """

    name: str
    place: str
    code_version: str
    write: Write | None = None
    write_together: WriteTogether | None = None
    keys: Callable[[Experiment], Sequence[str]] = only_one
    is_in: Callable[[Experiment], bool] = always
    absent: Callable[[Experiment, Collection[str]], Mapping[str, str]] | None = None
    inputs: Callable[[Experiment, str], Sequence[Input]] = _nothing
    takes: Callable[["Lineage", Sequence[Input]], Sequence[Input]] = _all
    config: Callable[["Lineage", str], dict[str, Any]] = _no_settings
    is_heavy: bool = False
    parts: Parts | None = None
    resumes: bool = False
    record: str = ""
    shares_folder: bool = False
    links_to: str = ""
    operations: Callable[["Lineage"], float] | None = None
    price: Callable[["Sizes", str], Price | None] | None = None
    family: str = ""
    current: Callable[["Lineage", str], Record | None] | None = None
    is_in_line: bool = True
    takes_what_is_there: bool = False
    is_report: bool = False
    follows_inputs: bool = False
    is_trained: Callable[[Experiment], bool] | None = None
    replicate_of: str = ""

    @property
    def record_place(self) -> str:
        """Where its record is under the experiment's folder, with ``{key}`` as in ``place``."""
        name = f"{self.record}.{RECORD_NAME}" if self.record else RECORD_NAME
        return f"{self.place}/{name}"

    @property
    def owns_folder(self) -> bool:
        """Whether its folder holds nothing else."""
        return not (self.record or self.shares_folder)

    @property
    def is_training(self) -> bool:
        """Whether it is a model that this line trains."""
        return bool(self.family and self.operations)
