"""Metadata entries for the web UI, from an artifact's record."""

import datetime as dt
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.errors import DagsterInvariantViolationError

from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import Made
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record
from mdel_assets.store.remote.entries import entry_name

if TYPE_CHECKING:
    from mdel_assets.scoring.estimates import Estimate

OWNERS = ["team:mdel"]
# What an artifact's page shows, and its checks.
Described = tuple[Mapping[str, Any], Sequence[dg.AssetCheckResult]]


def page(entries: Mapping[str, Any], record: Record, artifact: Artifact) -> dict[str, Any]:
    """Return the metadata of an artifact's page, in order.

    The page shows whether this run made the artifact, its own ``entries``, when it was made, where
    it is, and its inputs.
    """
    made_at = artifact.made_at()
    is_reused = made_at < _run_began_at()
    since = dt.datetime.fromtimestamp(made_at, dt.UTC)
    reused = f"reused: up to date since {since:%Y-%m-%d %H:%M} UTC"
    return {
        "state": reused if is_reused else "made in this run",
        **entries,
        "made_at": dg.MetadataValue.timestamp(made_at),
        "path": dg.MetadataValue.path(str(artifact.folder)),
        "fingerprint": record.fingerprint,
        "size_mib": round(sum(f["size_bytes"] for f in record.files.values()) / 2**20, 2),
        "config": dg.MetadataValue.json(record.config),
        "inputs": dg.MetadataValue.json(record.inputs),
        "versions": dg.MetadataValue.json(record.versions),
        **(_forcing(record, artifact) if is_reused else {}),
    }


def result_of(
    record: Record, artifact: Artifact, shown: Mapping[str, Any], *checks: dg.AssetCheckResult
) -> dg.MaterializeResult:
    """Return what a step of one artifact gives: its page, with ``shown``, and its checks."""
    return dg.MaterializeResult(metadata=page(shown, record, artifact), check_results=checks)


def results_of(
    context: dg.AssetExecutionContext,
    made: Made,
    describe: Callable[[Record, Artifact], Described],
    *,
    lineage: Lineage,
) -> dg.MaterializeResult:
    """Return what a step of several artifacts gives: a page each, and each check once for all.

    ``describe`` returns what a page shows, and the artifact's checks.

    Raises:
        MdelError: some artifacts could not be made; the others have their pages all the same.

    """
    kind, pages = context.asset_key.path[-1], {}
    checks: dict[str, dict[str, dg.AssetCheckResult]] = {}
    for key, record in made.records.items():
        artifact = lineage.artifact(kind, key)
        shown, found = describe(record, artifact)
        pages[key] = page(shown, record, artifact)
        for check in found:
            checks.setdefault(check.check_name or "", {})[key] = check
    note_partitions(context, pages, fails=bool(made.failures))
    made.raise_failures()
    return dg.MaterializeResult(check_results=[_as_one(by_key) for by_key in checks.values()])


def _as_one(checks: Mapping[str, dg.AssetCheckResult]) -> dg.AssetCheckResult:
    """Return the results of one check of several partitions as one."""
    first = next(iter(checks.values()))
    if len(checks) == 1:
        return first
    failed = {key: check for key, check in checks.items() if not check.passed}
    return dg.AssetCheckResult(
        passed=not failed,
        check_name=first.check_name,
        severity=first.severity,
        description="; ".join(f"{key}: {check.description}" for key, check in failed.items())
        or f"All {len(checks)} passed.",
        metadata={key: dg.MetadataValue.json(_plain(check)) for key, check in checks.items()},
    )


def _plain(check: dg.AssetCheckResult) -> dict[str, Any]:
    return {name: value.value for name, value in (check.metadata or {}).items()}


def note_partitions(
    context: dg.AssetExecutionContext, metadata: Mapping[str, Mapping[str, Any]], *, fails: bool
) -> None:
    """Let every partition that was made show its metadata, also where the step ``fails`` next."""
    for key, entries in metadata.items():
        if fails:
            event = dg.AssetMaterialization(
                context.asset_key, partition=key or None, metadata=entries
            )
            context.log_event(event)
        else:
            context.add_asset_metadata(entries, partition_key=key or None)


def _run_began_at() -> float:
    """Return when the current run was requested, in seconds since 1970; 0 outside a run."""
    try:
        context = dg.AssetExecutionContext.get()
    except DagsterInvariantViolationError:
        return 0.0
    run = context.instance.get_run_record_by_id(context.run.run_id)
    return run.create_timestamp.timestamp() if run else 0.0


def _forcing(record: Record, artifact: Artifact) -> dict[str, str]:
    """Return how to remake an artifact that is up to date; nothing for publications."""
    if artifact.kind.startswith("hub_"):
        return {}
    words = f"mdel backfill --asset {artifact.kind} --partitions {artifact.key} --force"
    if not artifact.key:
        places = [str(artifact.record_path)]
        if artifact.remote:
            name = entry_name(artifact.remote.place, record.fingerprint)
            places.append(f"{artifact.remote.store.address}/{name}")
        words = f"Remove {' and '.join(places)}, then materialize it."
    return {"to_make_it_anew": words}


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
    """Return the entry ``name`` with a link; nothing if there is no address."""
    if address is None or not address.startswith(("http://", "https://")):
        return {}
    return {name: dg.MetadataValue.url(address)}


def model_address(config: Mapping[str, Any]) -> str | None:
    """Return the Hub page of the commit a model came from; None for a model made here."""
    if not config.get("commit"):
        return None
    return f"{_hub()}/{config['path']}/tree/{config['commit']}"


def shard_address(location: str, *, commit: str | None) -> str | None:
    """Return the Hub page that a shard came from; None for a local file."""
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
    """Return a figure rounded for tables."""
    return None if value is None else round(value, 4)


def shortened(value: Any) -> Any:
    """Return parameters of a merge with their numbers to four digits, as pages show them."""
    if isinstance(value, Mapping):
        return {name: shortened(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def change_entries(change: "Estimate") -> dict[str, float | None]:
    """Return a difference and its interval as tables show them."""
    return {
        "change": rounded(change.value),
        "low": rounded(change.low),
        "high": rounded(change.high),
    }


def frozen_check(
    name: str, changed_though_frozen: Mapping[str, Sequence[str]]
) -> dg.AssetCheckResult:
    """Return the result of the check ``name`` that experts keep what they do not train.

    ``changed_though_frozen`` names each expert's tensors that differ from the seed's all the same.
    """
    changed = {key: names for key, names in changed_though_frozen.items() if names}
    told = "; ".join(
        f"{key or 'this model'}: {len(names)}, {names[0]} first" for key, names in changed.items()
    )
    return dg.AssetCheckResult(
        passed=not changed,
        check_name=name,
        description=f"Tensors outside of the trained layers differ from the seed's ({told})."
        if changed
        else "All tensors outside of the trained layers equal the seed's.",
        metadata={
            "num_changed_tensors": sum(map(len, changed.values())),
            **({"changed_though_frozen": dg.MetadataValue.json(changed)} if changed else {}),
        },
    )


def barring(check: dg.AssetCheckResult, failed: Iterable[Artifact]) -> dg.AssetCheckResult:
    """Return the result of a blocking check, and bar the artifacts that failed it.

    No step uses a barred artifact until its check passes. Dagster alone would let later runs use
    it.
    """
    for artifact in failed:
        artifact.bar(str(check.check_name))
    return check
