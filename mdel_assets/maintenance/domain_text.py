"""Files with a domain's text outside the artifacts' lineage, and how to remove them.

Dagster's history holds some, too: `defs/forgetting.py` looks there.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.home import MdelHome
from mdel_assets.store.artifacts import KEPT_IN_WORK
from mdel_assets.store.half_written import staging_folders
from mdel_assets.store.in_use import unused


@dataclasses.dataclass(frozen=True)
class TextFound:
    """A file or folder that holds, or may hold, a domain's text.

    ``remedy`` says how the user can remove it; without one, it is removed with the domain.
    """

    path: Path
    holds: str
    remedy: str = ""

    @property
    def size_bytes(self) -> int:
        """The size of the file, or of all files in the folder."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        size = 0
        # Somebody may be writing it, and give it its name.
        with contextlib.suppress(FileNotFoundError):
            for path in files:
                size += path.stat().st_size if path.is_file() else 0
        return size

    def remove(self) -> None:
        """Remove the file or folder."""
        shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink(missing_ok=True)


class PartlyFetched(TextFound):
    """What a fetch left, of any experiment."""

    def remove(self) -> None:
        """Remove it, unless somebody goes on with it now."""
        with unused(self.path) as is_left:
            if is_left:
                self.path.unlink(missing_ok=True)


def shards_with(domain: str, root: Path) -> list[str]:
    """Return the shards of an experiment that hold documents of ``domain``."""
    files = sorted(root.glob(f"documents/*/{domain}.parquet"))
    return [path.parent.name for path in files if _may_hold_rows(path)]


def _may_hold_rows(path: Path) -> bool:
    """Whether a file has rows; a damaged one may still hold text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bool(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return True


def text_of(domain: str, home: MdelHome, experiment: str) -> Iterator[TextFound]:
    """Yield the files with text of ``domain``: first its own, then others that may hold some."""
    from mdel_assets.data.document_writer import REJECTS_NAME

    root = home.root / experiment
    for shard in shards_with(domain, root):
        yield TextFound(root / "documents" / shard / f"{domain}.parquet", "its documents")
    for path in sorted(root.glob(f"documents/*/{REJECTS_NAME}")):
        if _may_hold_rows(path):
            yield TextFound(path, "rejected lines of any domain")
    for path in sorted(root.glob("work/*")):
        if path.name not in KEPT_IN_WORK:
            yield TextFound(path, "work in progress, or damaged")
    for path in sorted(home.cache.glob(f"partial-{experiment}-*")):
        yield TextFound(path, "a partly fetched shard")
    # Whoever removes text holds the locks of all makers: nobody writes there then.
    for path in staging_folders(root):
        yield TextFound(path, "half-written")
    for path in _left_by_fetches(home.cache):
        yield PartlyFetched(path, "a partly fetched file")
    other = "has other text, too, so it stays: rm -r it if no other domain needs it"
    for path in sorted(root.glob("shards/*")):
        yield TextFound(path, "a raw shard", other)
    for path in sorted(home.cache.glob("sample_corpus-*")):
        yield TextFound(path, "the sample's shards", other)
    if (folder := home.root / "wandb").exists():
        yield TextFound(
            folder,
            "losses and figures of models, no text",
            "belongs to Weights & Biases: rm -r it; delete online runs on their pages",
        )
    yield from _caches_of_the_hub()


def _left_by_fetches(cache: Path) -> Iterator[Path]:
    """Yield what was fetched of files from object stores, save what is being fetched."""
    for path in sorted(cache.glob("store-*/partial/*")):
        # A fetch may be another experiment's. It holds the file.
        with unused(path) as is_left:
            pass
        if is_left:
            yield path


def _caches_of_the_hub() -> Iterator[TextFound]:
    """Yield the caches of the Hub's libraries, which hold everything read through them."""
    from datasets import config
    from huggingface_hub import constants

    hub, read = Path(constants.HF_HUB_CACHE), Path(config.HF_DATASETS_CACHE)
    if hub.exists():
        remedy = "the Hub client's cache: 'hf cache list', then 'hf cache rm dataset/OWNER/NAME'"
        yield TextFound(hub, "shards, datasets and models that came from the Hub", remedy)
    if read.exists():
        remedy = "the datasets library's cache: rm -r the datasets in it"
        yield TextFound(read, "copies of datasets that 'mdel perplexity' or you read", remedy)
