"""Publishing assets: they run only on request."""

from typing import Any

import dagster as dg

from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import result_of
from mdel_assets.defs.network import retrying_transient_errors
from mdel_assets.defs.resources import HubResource, Workspace
from mdel_assets.publishing.publication import Publication
from mdel_assets.publishing.steps import PUBLISH, Outcome
from mdel_assets.store.artifacts import Artifact

_DESCRIPTIONS = {
    "hub_dataset": """
        The domain's dataset on the Hub, with a card that says what it holds and may be used for.

        One commit, or none where nothing has changed. Needs HF_TOKEN, unless the experiment
        publishes to a folder.
        """,
    "hub_expert": """
        The domain's expert on the Hub, with tokenizer, perplexities and provenance on its card.

        As `hub_dataset`. Publish the dataset first, and the card links to it.
        """,
    "hub_merged_model": """
        The recipe's merged model on the Hub, with tokenizer, recipe and perplexities.

        As `hub_dataset`. Publish the experts first, and the card links to them.
        """,
    "hub_mixture": """
    The mixture of experts on the Hub, with tokenizer, perplexities and active weights.

    As `hub_dataset`. Publish the experts first, and the card links to them.
    """,
}


def publishing_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``publishing``, of what the experiment has."""
    return [_publication(line, kind) for kind in _DESCRIPTIONS if line.has(kind)]


def _publication(line: LineAssets, kind: str) -> dg.AssetsDefinition:
    @line.asset(
        kind,
        group="publishing",
        icons={"huggingface"},
        pool="io",
        description=_DESCRIPTIONS[kind],
    )
    def publication(
        context: dg.AssetExecutionContext, workspace: Workspace, hub: HubResource
    ) -> dg.MaterializeResult:
        lineage, key = workspace.lineage(line.experiment), context.partition_key
        publisher = hub.publisher(line.experiment)
        with retrying_transient_errors(context):
            done = PUBLISH[kind](lineage, key, publisher=publisher)
        return _result(done, lineage.artifact(kind, key))

    return publication


def _result(done: Outcome, artifact: Artifact) -> dg.MaterializeResult:
    """Return a publication's metadata: its address, revision and card."""
    if done.record is None:
        plan = "\n".join(done.plan)
        metadata: dict[str, Any] = {
            "state": "dry run: nothing was sent",
            "plan": dg.MetadataValue.md(f"```\n{plan}\n```"),
        }
        return dg.MaterializeResult(metadata=metadata)
    record = done.record
    publication = Publication.of(record)
    address = publication.url
    is_address = address.startswith(("http://", "https://"))
    shown = {
        "repository": publication.repository,
        "revision": publication.revision,
        "url": dg.MetadataValue.url(address) if is_address else address,
        "made_commit": publication.made_commit,
        **record.counts,
        "card": dg.MetadataValue.md((artifact.folder / "README.md").read_text("utf-8")),
    }
    return result_of(record, artifact, shown)
