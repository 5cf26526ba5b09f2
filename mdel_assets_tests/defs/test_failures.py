"""What a failed step says: a mistake is a sentence, anything else has its stack trace."""

import dagster as dg
import pytest
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.server import LoadedRepositories
from dagster._utils.error import serializable_error_info_from_exc_info

from mdel_assets.defs.failures import failing_in_words
from mdel_assets.defs.graph import build_definitions
from mdel_assets.errors import MdelError, MissingArtifactError
from mdel_assets_tests.conftest import pico_experiment

pytestmark = pytest.mark.in_use


def failure_of(result):
    """Return what the page of a failed run shows of its one failed step."""
    (error,) = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    return error


def test_a_mistake_is_shown_as_its_sentence_alone(home, corpus):
    job = build_definitions(pico_experiment(corpus), home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("merged_model")],
            partition_key="pair",
            raise_on_error=False,
        )
    error = failure_of(result)
    assert error.stack == []
    assert error.cause is None
    assert error.cls_name == "MissingArtifactError"
    assert error.message.startswith("mdel_assets.errors.MissingArtifactError: domain_dataset ")
    assert "run 'mdel dg launch --assets domain_dataset --partition github'" in error.message


def test_a_yaml_that_breaks_is_one_sentence_on_the_page_of_its_location(tmp_path, monkeypatch):
    (tmp_path / "firm.yaml").write_text("sourc: {}")
    monkeypatch.setenv("MDEL_EXPERIMENT", str(tmp_path / "firm.yaml"))
    monkeypatch.setenv("MDEL_HOME", str(tmp_path / "home"))
    with pytest.raises(MdelError) as raised:
        LoadedRepositories(
            LoadableTargetOrigin(module_name="mdel_assets.definitions"),
            entry_point=["dagster"],
            container_image=None,
            container_context=None,
        )
    error = serializable_error_info_from_exc_info((raised.type, raised.value, raised.tb))
    assert error.stack == []
    assert error.cause is None
    assert error.message.startswith("mdel_assets.errors.ExperimentError: ")
    assert "- Unknown key 'sourc'. Did you mean 'source'?" in error.message


def test_any_other_error_keeps_its_stack_trace():
    @dg.asset
    def broken() -> None:
        raise ZeroDivisionError("by mistake of ours")

    result = dg.materialize(failing_in_words([broken]), raise_on_error=False)
    error = failure_of(result)
    assert "ZeroDivisionError" in error.cause.message
    assert any("in broken" in frame for frame in error.cause.stack)


def test_who_runs_a_step_in_process_catches_the_mistake_by_its_class(home, corpus):
    definitions = build_definitions(pico_experiment(corpus), home)
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(MissingArtifactError):
        job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("merged_model")], partition_key="pair"
        )
