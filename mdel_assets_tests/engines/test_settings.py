"""Settings of the engines, from run configuration and from a file."""

import dagster as dg
import pytest

from mdel_assets.defs.compute import Compute, load_compute
from mdel_assets.engines.settings import RaySettings, SlurmSettings, read_settings
from mdel_assets.errors import ExperimentError, UnknownKeyError


def test_a_file_in_the_home_says_how_models_are_trained(home):
    assert load_compute(home, {}).engine == "local"
    assert load_compute(home, {}).backfill_policy("expert_model") is None
    home.root.mkdir()
    (home.root / "compute.yaml").write_text("engine: slurm\nslurm: {partition: gpu, gpus: 2}\n")
    compute = load_compute(home, {})
    assert compute.place_of("expert_model").queue == SlurmSettings(partition="gpu", gpus=2)
    assert compute.backfill_policy("expert_model") == dg.BackfillPolicy.single_run()
    # Only trainings become jobs where nothing else is said.
    assert compute.place_of("token_scores").queue is None
    assert compute.backfill_policy("shard_documents") is None


def test_each_kind_has_an_engine_and_resources_of_its_own(home):
    home.root.mkdir()
    (home.root / "compute.yaml").write_text(
        """
        engine: slurm
        slurm: {partition: gpu, gpus: 4, options: [--exclusive]}
        kinds:
          token_scores: {gpus: 1, parts: 3, models_per_job: 2, options: [--mem=8G]}
          shard_documents: {partition: cpu, cpus: 2, gpus: null}
          domain_dataset: {engine: ray, num_cpus: 8}
          expert_model: {engine: local}
          layer_differences: {}
        """
    )
    compute = load_compute(home, {})
    scores = compute.place_of("token_scores")
    assert scores.queue == SlurmSettings(partition="gpu", gpus=1, options=("--mem=8G",))
    assert (scores.division.parts, scores.division.models_per_job) == (3, 2)
    shards = SlurmSettings(partition="cpu", cpus=2, options=("--exclusive",))
    assert compute.place_of("shard_documents").queue == shards
    assert compute.place_of("domain_dataset").queue == RaySettings(num_cpus=8)
    assert compute.place_of("expert_model").queue is None
    assert compute.place_of("layer_differences").queue == compute.place_of("seed_model").queue
    assert compute.place_of("merged_model").queue is None


def test_the_environment_names_another_file(home, tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(ExperimentError, match=r"MDEL_COMPUTE names .*mine.yaml, which does not"):
        load_compute(home, {"MDEL_COMPUTE": str(path)})
    path.write_text("engine: accelerate\nnum_processes: 2\n")
    compute = load_compute(home, {"MDEL_COMPUTE": str(path)})
    assert (compute.engine, compute.num_processes) == ("accelerate", 2)


def test_what_is_no_text_file_is_named(home, tmp_path):
    with pytest.raises(ExperimentError, match=r"cannot be read.* a YAML file in UTF-8"):
        load_compute(home, {"MDEL_COMPUTE": str(tmp_path)})
    path = tmp_path / "mine.yaml"
    path.write_bytes("engine: slürm".encode("latin-1"))
    with pytest.raises(ExperimentError, match=r"mine.yaml cannot be read.* a YAML file in UTF-8"):
        load_compute(home, {"MDEL_COMPUTE": str(path)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engin: slurm", "Unknown key 'engin'. Did you mean 'engine'?"),
        ("engine: slrum", "Unknown compute.engine 'slrum'. Did you mean 'slurm'?"),
        (
            "{engine: slurm, slurm: {partion: gpu}}",
            "compute.slurm: Unknown key 'partion'. Did you mean 'partition'?",
        ),
        ("{engine: slurm, slurm: {gpus: []}}", "compute.slurm: gpus: expected"),
        (
            "{engine: slurm, slurm: {time_limit_minutes: 2}}",
            "a time limit of 2 minutes is over before its margin of 120 seconds begins",
        ),
        ("num_processes: many", "num_processes"),
        ("kinds: {token_score: {}}", "Did you mean 'token_scores'?"),
        ("kinds: {perplexity_matrix: {}}", "Unknown compute.kinds: kind 'perplexity_matrix'"),
        ("kinds: {token_scores: slurm}", "compute.kinds.token_scores must be a mapping"),
        ("kinds: {token_scores: {gpus: 1}}", "set compute.engine, or compute.kinds.token_scores"),
        ("kinds: {token_scores: {engine: accelerate}}", "Only trainings run in workers"),
        ("{engine: slurm, kinds: {token_scores: {parts: 0}}}", "parts"),
        ("{engine: slurm, kinds: {merged_model: {parts: 2}}}", "is for token_scores alone"),
        ("{engine: slurm, kinds: {merged_model: {gpu: 2}}}", "Did you mean 'gpus'?"),
        ("[slurm]", "must be a mapping of keys"),
        ("{", "is not YAML"),
    ],
)
def test_mistakes_are_told_when_the_definitions_are_loaded(home, text, message):
    home.root.mkdir()
    (home.root / "compute.yaml").write_text(text)
    with pytest.raises(ExperimentError) as caught:
        load_compute(home, {})
    assert message in str(caught.value)


def test_an_unknown_key_has_its_own_error():
    with pytest.raises(UnknownKeyError):
        read_settings(SlurmSettings, {"acount": "x"}, origin="compute.slurm")


def test_run_configuration_changes_single_settings_of_the_file(home):
    home.root.mkdir()
    (home.root / "compute.yaml").write_text("{engine: slurm, max_seconds: 60}")

    @dg.asset
    def shown(compute: Compute) -> list:
        return [compute.engine, compute.max_seconds, compute.slurm]

    result = dg.materialize(
        [shown],
        resources={"compute": load_compute(home, {})},
        run_config={"resources": {"compute": {"config": {"slurm": {"account": "me"}}}}},
    )
    assert result.output_for_node("shown") == ["slurm", 60, {"account": "me"}]
