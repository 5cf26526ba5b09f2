"""Where a domain's text lies outside of artifacts' lineage, and what becomes of it there.

Dagster's history holds some, too: `defs/forgetting.py` looks there.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.home import MdelHome
from mdel_assets.store.artifacts import KEPT_IN_WORK


@dataclasses.dataclass(frozen=True)
class TextFound:
    """A file or folder that holds a domain's text, or may. ``remedy``: who has to remove it, how.

    Without a remedy it is removed with the domain.
    """

    path: Path
    holds: str
    remedy: str = ""

    @property
    def size_bytes(self) -> int:
        """The size of the file, or of all files in the folder."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(path.stat().st_size for path in files if path.is_file())


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
    """Yield where text of ``domain`` lies, its own files first, then what may hold some of it."""
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
        yield TextFound(path, "a shard that was not fetched to its end")
    other = "other text too, so it stays: rm -r it if no other domain needs it"
    for path in sorted(root.glob("shards/*")):
        yield TextFound(path, "a raw shard", other)
    for path in sorted(home.cache.glob("sample_corpus-*")):
        yield TextFound(path, "the sample's shards", other)
    if (folder := home.root / "wandb").exists():
        yield TextFound(
            folder,
            "losses and figures of models, no text",
            "Weights & Biases' own: rm -r it; delete runs that are online on their pages",
        )
    yield from _caches_of_the_hub()


def _caches_of_the_hub() -> Iterator[TextFound]:
    """Yield the caches of the Hub's libraries, which hold what was read with them by name."""
    from datasets import config
    from huggingface_hub import constants

    hub, read = Path(constants.HF_HUB_CACHE), Path(config.HF_DATASETS_CACHE)
    if hub.exists():
        remedy = "the Hub client's own: 'hf cache list', then 'hf cache rm dataset/OWNER/NAME'"
        yield TextFound(hub, "shards, datasets and models that came from the Hub", remedy)
    if read.exists():
        remedy = "the datasets library's own: rm -r the datasets in it"
        yield TextFound(read, "copies of datasets that 'mdel perplexity' or you read", remedy)
