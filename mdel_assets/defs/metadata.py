"""What an artifact's record looks like in the web UI."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from mdel_assets.artifacts import Artifact, Record

OWNERS = ["team:mdel"]


def provenance(record: Record, artifact: Artifact) -> dict[str, Any]:
    """Return the entries that every asset shows: where it lies, what made it."""
    return {
        "path": dg.MetadataValue.path(str(artifact.folder)),
        "fingerprint": record.fingerprint,
        "size_mib": round(sum(f["size_bytes"] for f in record.files.values()) / 2**20, 2),
        "config": dg.MetadataValue.json(record.config),
        "inputs": dg.MetadataValue.json(record.inputs),
        "versions": dg.MetadataValue.json(record.versions),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Return rows as a table; the first row gives the columns."""
    kinds = {bool: "bool", int: "int", float: "float"}
    columns = [
        dg.TableColumn(name, type=kinds.get(type(value), "string"))
        for name, value in (rows[0] if rows else {}).items()
    ]
    records = [dg.TableRecord(dict(row)) for row in rows]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def chart(drawn: Any, title: str) -> dg.MetadataValue:
    """Return a figure as an image inside Markdown."""
    from mdel_assets.charts import inline_image

    return dg.MetadataValue.md(inline_image(drawn, title=title))


def link(name: str, address: str | None) -> dict[str, Any]:
    """Return the entry ``name`` that leads to a page; nothing without an address of one."""
    if address is None or not address.startswith(("http://", "https://")):
        return {}
    return {name: dg.MetadataValue.url(address)}


def model_address(config: Mapping[str, Any]) -> str | None:
    """Return the page of the commit that a model was taken from; None for one that was made."""
    if not config.get("commit"):
        return None
    return f"{_hub()}/{config['path']}/tree/{config['commit']}"


def shard_address(location: str, *, commit: str | None) -> str | None:
    """Return the page that a shard was taken from; None for a local file."""
    from mdel_assets.data.hub_files import hub_file

    if not location.startswith("hf://"):
        return location
    file = hub_file(location)
    repository = f"datasets/{file.repository}" if file.kind == "dataset" else file.repository
    return f"{_hub()}/{repository}/blob/{commit or file.revision or 'main'}/{file.name}"


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def preview(text: str, *, length: int = 160) -> str:
    """Return the beginning of ``text`` on one line, with every odd character escaped."""
    cut = text[:length] + ("…" if len(text) > length else "")
    return json.dumps(cut, ensure_ascii=False)[1:-1]


def rounded(value: float | None) -> float | None:
    """Return a figure as tables show it."""
    return None if value is None else round(value, 4)


def barring(check: dg.AssetCheckResult, failed: Iterable[Artifact]) -> dg.AssetCheckResult:
    """Return the result of a blocking check; nothing is made of what failed it before it passes.

    Dagster itself lets later runs go on.
    """
    for artifact in failed:
        artifact.bar(str(check.check_name))
    return check
