"""Publishing assets: they hang off the line and run only when they are asked for."""

from typing import Any

import dagster as dg

from mdel_assets import steps_publishing
from mdel_assets.artifacts import Artifact
from mdel_assets.defs.absence import leaving_out_absent
from mdel_assets.defs.metadata import OWNERS, page
from mdel_assets.defs.network import repeated_where_the_network_failed
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import HubResource, Workspace
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS
from mdel_assets.steps_publishing import Outcome


def publishing_assets(experiment: Experiment, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``publishing``; merged models only where there is a recipe."""

    @dg.asset(
        group_name="publishing",
        output_required=False,
        partitions_def=partitions.domain,
        deps=["domain_dataset"],
        owners=OWNERS,
        kinds={"huggingface"},
        code_version=CODE_VERSIONS["hub_dataset"],
        pool="io",
    )
    @leaving_out_absent
    def hub_dataset(
        context: dg.AssetExecutionContext, workspace: Workspace, hub: HubResource
    ) -> dg.MaterializeResult:
        """The domain's dataset on the Hub, with a card that says what it holds and may be used for.

        One commit, or none where nothing has changed. Needs HF_TOKEN, unless the experiment
        publishes to a folder.
        """
        publisher = hub.publisher(experiment)
        lineage = workspace.lineage(experiment)
        domain = context.partition_key
        with repeated_where_the_network_failed(context):
            done = steps_publishing.publish_dataset(lineage, domain, publisher=publisher)
        return _result(done, lineage.store.publication("hub_dataset", domain))

    @dg.asset(
        group_name="publishing",
        output_required=False,
        partitions_def=partitions.domain,
        deps=["expert_model"],
        owners=OWNERS,
        kinds={"huggingface"},
        code_version=CODE_VERSIONS["hub_expert"],
        pool="io",
    )
    @leaving_out_absent
    def hub_expert(
        context: dg.AssetExecutionContext, workspace: Workspace, hub: HubResource
    ) -> dg.MaterializeResult:
        """The domain's expert on the Hub, with tokenizer, perplexities and provenance on its card.

        As `hub_dataset`. Publish the dataset first, and the card links to it.
        """
        publisher = hub.publisher(experiment)
        lineage = workspace.lineage(experiment)
        domain = context.partition_key
        with repeated_where_the_network_failed(context):
            done = steps_publishing.publish_expert(lineage, domain, publisher=publisher)
        return _result(done, lineage.store.publication("hub_expert", domain))

    if partitions.recipe is None:
        return [hub_dataset, hub_expert]

    @dg.asset(
        group_name="publishing",
        partitions_def=partitions.recipe,
        deps=["merged_model"],
        owners=OWNERS,
        kinds={"huggingface"},
        code_version=CODE_VERSIONS["hub_merged_model"],
        pool="io",
    )
    def hub_merged_model(
        context: dg.AssetExecutionContext, workspace: Workspace, hub: HubResource
    ) -> dg.MaterializeResult:
        """The recipe's merged model on the Hub, with tokenizer, recipe and perplexities.

        As `hub_dataset`. Publish the experts first, and the card links to them.
        """
        publisher = hub.publisher(experiment)
        lineage = workspace.lineage(experiment)
        recipe = context.partition_key
        with repeated_where_the_network_failed(context):
            done = steps_publishing.publish_merged(lineage, recipe, publisher=publisher)
        return _result(done, lineage.store.publication("hub_merged_model", recipe))

    return [hub_dataset, hub_expert, hub_merged_model]


def _result(done: Outcome, artifact: Artifact) -> dg.MaterializeResult:
    """Return what a publication shows: where it lies, as which revision, and its card."""
    if done.record is None:
        plan = "\n".join(done.plan)
        metadata: dict[str, Any] = {
            "state": "dry run: nothing was sent",
            "plan": dg.MetadataValue.md(f"```\n{plan}\n```"),
        }
        return dg.MaterializeResult(metadata=metadata)
    record = done.record
    details = record.details
    address = details["url"]
    is_address = address.startswith(("http://", "https://"))
    shown = {
        "repository": details["repository"],
        "revision": details["revision"],
        "url": dg.MetadataValue.url(address) if is_address else address,
        "made_commit": details["made_commit"],
        **record.counts,
        "card": dg.MetadataValue.md((artifact.folder / "README.md").read_text("utf-8")),
    }
    return dg.MaterializeResult(metadata=page(shown, record, artifact))
