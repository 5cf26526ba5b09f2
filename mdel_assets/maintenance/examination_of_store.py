"""What the doctor looks at in an object store: does it answer, and what in it is of no use."""

from collections.abc import Iterator

from mdel_assets.errors import MdelError
from mdel_assets.line.lineage import Lineage
from mdel_assets.maintenance.examination import Finding
from mdel_assets.store.remote.unreferenced import remove_files, unreferenced_files


def examine_store(lineage: Lineage) -> Iterator[Finding]:
    """Look whether the store answers, and for files that belong to no artifact."""
    store = lineage.remote
    if store is None:
        return
    try:
        files = unreferenced_files(store)
    except MdelError as error:
        yield Finding(str(error))
        return
    if not files:
        return

    def repair() -> str:
        remove_files(store, files)
        return f"removed {len(files)} files from {store.address}"

    size_mib = sum(file.size_bytes for file in files) / 2**20
    yield Finding(
        f"{store.address} holds {len(files)} files ({size_mib:.0f} MiB) that belong to no "
        f"artifact, from pushes that were killed or artifacts that were removed.",
        repair,
    )
