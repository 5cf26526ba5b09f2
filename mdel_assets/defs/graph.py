"""The asset graph of one experiment: assets, checks, jobs, schedules, sensors, resources."""

import warnings

import dagster as dg

from mdel_assets.defs.automation import automation_of, follow_inputs
from mdel_assets.defs.baselines import baseline_assets
from mdel_assets.defs.clusters import cluster_assets
from mdel_assets.defs.compute import load_compute
from mdel_assets.defs.data import data_assets
from mdel_assets.defs.ensembles import ensemble_assets
from mdel_assets.defs.evaluation import evaluation_assets
from mdel_assets.defs.executor import in_process_executor
from mdel_assets.defs.failures import failing_in_words
from mdel_assets.defs.forecasts import forecast_assets
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.merging import merging_assets
from mdel_assets.defs.mixtures import mixture_assets
from mdel_assets.defs.publishing import publishing_assets
from mdel_assets.defs.references import reference_assets
from mdel_assets.defs.replicates import replicate_assets
from mdel_assets.defs.reporting import report_assets
from mdel_assets.defs.resources import resources_of
from mdel_assets.defs.sample_texts import sample_text_assets
from mdel_assets.defs.searches import search_assets
from mdel_assets.defs.tasks import task_assets
from mdel_assets.defs.training import training_assets
from mdel_assets.defs.variants import variant_assets
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.planning.kept import kept_plan
from mdel_assets.planning.table import stage_in_words


def build_definitions(experiment: Experiment, home: MdelHome) -> dg.Definitions:
    """Return the asset graph of one experiment over the artifacts in ``home``.

    Domains that the corpus is known to lack by now are in none of its partitions.
    """
    lineage = home.lineage(experiment)
    compute = load_compute(home)
    # Dagster resolves jobs later than this, and then says that it will do what is meant.
    warnings.filterwarnings("ignore", message="Asset job .* varying BackfillPolicies")
    with warnings.catch_warnings():
        # Pools and backfill policies are in beta; a user can do nothing about it.
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        line = LineAssets(lineage)
        assets = [
            *data_assets(line, compute),
            *cluster_assets(line),
            *training_assets(line, compute),
            *forecast_assets(line),
            *baseline_assets(line, compute),
            *search_assets(line, compute),
            *merging_assets(line, compute),
            *mixture_assets(line, compute),
            *variant_assets(line, compute),
            *reference_assets(line, compute),
            *replicate_assets(line, compute),
            *evaluation_assets(line),
            *ensemble_assets(line),
            *sample_text_assets(line),
            *task_assets(line),
            *report_assets(line),
            *publishing_assets(line),
        ]
        shown = _shown_of_plan(lineage)
        assets = [
            asset.map_asset_specs(
                lambda spec: spec.merge_attributes(
                    metadata={"experiment": experiment.name, **shown.get(spec.key.path[-1], {})}
                )
            )
            for asset in assets
        ]
        assets = follow_inputs(failing_in_words(assets), lineage)
        automation = automation_of(line)
    return dg.Definitions(
        assets=assets,
        jobs=automation.jobs,
        schedules=automation.schedules,
        sensors=automation.sensors,
        resources={**resources_of(experiment, home), "compute": compute},
        executor=in_process_executor,
        metadata={"experiment": experiment.name},
    )


def _shown_of_plan(lineage: Lineage) -> dict[str, dict[str, str]]:
    """Return what the last plan says of each asset, for its page; nothing without a plan."""
    kept = kept_plan(lineage)
    stages = kept.plan.stages if kept else ()
    return {
        stage.kind: {"plan": f"{stage_in_words(stage)} (planned {kept.made_at})"}
        for stage in stages
        if kept
    }
