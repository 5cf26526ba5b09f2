"""A domain's text in Dagster's history: on pages of datasets, sample texts and publications."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from mdel_assets.home import MdelHome
from mdel_assets.publishing.card_texts import shows_text_of

_log = logging.getLogger(__name__)
# Assets whose pages show text, and the entry there that names the domains it is from.
_SHOWING = {
    dg.AssetKey("domain_dataset"): "sample",
    dg.AssetKey("sample_texts"): "bits_per_byte",
    dg.AssetKey("hub_expert"): "card",
    dg.AssetKey("hub_merged_model"): "card",
    dg.AssetKey("hub_mixture"): "card",
}
_PAGE = 500


def runs_with_samples(home: MdelHome, domain: str, *, experiment: str) -> list[str]:
    """Return the experiment's runs whose history holds rows of ``domain``, sorted."""
    found: set[str] = set()
    for folder in _instances(home):
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            samples = _samples(instance, domain, home.root / experiment)
            found |= {event.run_id for event in samples}
    return sorted(found)


def delete_samples(home: MdelHome, domain: str, *, experiment: str) -> None:
    """Delete those runs from the history, and the cached metadata of the newest pages."""
    for folder in _instances(home):
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            samples = _samples(instance, domain, home.root / experiment)
            runs = sorted({event.run_id for event in samples})
            for run_id in runs:
                instance.delete_run(run_id)
            if runs:
                instance.wipe_assets(list(_SHOWING))
        for database in sorted(folder.rglob("*.db")) if runs else []:
            _overwrite_deleted(database)


def _instances(home: MdelHome, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the folders of all Dagster instances of a home, including the one in use."""
    settings = [*home.root.glob("dagster/dagster.yaml"), *home.root.glob("*/dagster/dagster.yaml")]
    if named := environment.get("DAGSTER_HOME"):
        settings += Path(named).glob("dagster.yaml")
    return sorted({path.parent.resolve() for path in settings})


def _samples(instance: dg.DagsterInstance, domain: str, root: Path) -> Iterator[dg.EventLogRecord]:
    for asset, entry in _SHOWING.items():
        cursor, has_more = None, True
        while has_more:
            page = instance.fetch_materializations(asset, limit=_PAGE, cursor=cursor)
            yield from (event for event in page.records if _shows(event, entry, domain, root))
            cursor, has_more = page.cursor, page.has_more


def _shows(event: dg.EventLogRecord, entry: str, domain: str, root: Path) -> bool:
    """Whether an event shows text of ``domain`` of the experiment whose folder is ``root``."""
    made = event.asset_materialization
    if made is None:
        return False
    shown, place = made.metadata.get(entry), made.metadata.get("path")
    if isinstance(place, dg.PathMetadataValue) and root not in Path(place.path or "").parents:
        return False
    if isinstance(shown, dg.MarkdownMetadataValue):
        return shows_text_of(shown.md_str or "", domain)
    if not isinstance(shown, dg.TableMetadataValue):
        return False
    return any(row.data.get("domain") == domain for row in shown.records)


def _overwrite_deleted(database: Path) -> None:
    """Let SQLite rewrite the database file, because deleted rows stay readable in it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            connection.execute("VACUUM")
        except sqlite3.OperationalError as error:
            _log.warning(
                "%s still holds deleted rows (%s): stop the web UI and run 'sqlite3 FILE VACUUM'",
                database,
                error,
            )
