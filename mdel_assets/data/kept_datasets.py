"""Datasets of before: what of them need not be made again when the corpus has changed."""

from pathlib import Path

from mdel_assets.errors import ArtifactError
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Identity, Record
from mdel_assets.store.versions import library_versions


def usable_again(artifact: Artifact, identity: Identity) -> Record | None:
    """Return a dataset's record where the code and the libraries of now would write its files so.

    Its files are then whole. None where there is no such dataset.
    """
    if not artifact.record_path.exists():
        # To fetch it from a store would cost more than it saves.
        return None
    try:
        record = artifact.require()
    except ArtifactError:
        return None
    made_by = (record.code_version, record.versions)
    return record if made_by == (identity.code_version, library_versions()) else None


def holds_the_same(folder: Path, earlier: Path) -> bool:
    """Whether all split files of a dataset in ``folder`` are links to those in ``earlier``."""
    names = [f"{split}.parquet" for split in SPLITS]
    return all((folder / name).samefile(earlier / name) for name in names)
