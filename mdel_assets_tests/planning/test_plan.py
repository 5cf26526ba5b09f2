"""Plans against what a finished line took, their limits, and their words."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.errors import LimitError, UnknownKeyError
from mdel_assets.line.lineage import Lineage
from mdel_assets.planning.devices import DEVICES, device_of_rate, named_device
from mdel_assets.planning.in_words import amount_in_words, parsed_size, size_in_words
from mdel_assets.planning.kept import keep_plan, kept_plan
from mdel_assets.planning.limits import refuse_excess
from mdel_assets.planning.plan import plan_stages, warnings_of
from mdel_assets.planning.planned import plan_run
from mdel_assets.planning.table import plan_lines, plan_markdown
from mdel_assets.planning.wanted import Wanted, wanted_artifacts
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import pico_experiment

ONE_TERAFLOP = device_of_rate(1.0)


def bytes_on_disk(lineage, kind, keys):
    """Return the sizes of artifacts' files, with their records."""
    total = 0
    for key in keys:
        artifact = lineage.artifact(kind, key)
        files = artifact.read_record().files.values()
        total += sum(file["size_bytes"] for file in files) + artifact.record_path.stat().st_size
    return total


def test_disk_of_models_scores_and_reports_is_that_of_a_finished_line(finished, branched):
    experiment, home, _ = finished
    made = home.lineage(experiment)
    before = branched[1].lineage(experiment)
    sizes = Sizes(before)
    wanted = wanted_artifacts(sizes)
    planned = actual = 0.0
    for entry in wanted:
        kind = before.registry[entry.kind]
        if kind.price is None:
            continue
        planned += sum(kind.price(sizes, key).disk_bytes for key in entry.keys)
        actual += bytes_on_disk(made, entry.kind, entry.keys)
    assert {entry.kind for entry in wanted} >= {"expert_model", "token_scores", "domain_router"}
    # The router is most of it: without it, too.
    assert planned == pytest.approx(actual, rel=0.05)
    router = before.registry["domain_router"].price(sizes, "").disk_bytes
    rest = actual - bytes_on_disk(made, "domain_router", [""])
    assert planned - router == pytest.approx(rest, rel=0.05)


def test_plan_wants_what_a_run_would_make(finished, branched, lineage):
    experiment, home, _ = finished
    whole = plan_run(home.lineage(experiment), device=ONE_TERAFLOP)
    assert (whole.num_to_make, whole.seconds, whole.disk_bytes) == (0, 0.0, 0.0)
    half = plan_run(branched[1].lineage(experiment), device=ONE_TERAFLOP)
    counts = {stage.kind: (stage.num_to_make, stage.num_up_to_date) for stage in half.stages}
    # Of four domains, the corpus lacks one.
    assert counts["expert_model"] == (3, 0)
    assert counts["domain_dataset"] == (0, 3)
    # Nothing is there: the sources' first records tell which domains there are.
    none = plan_run(lineage, device=ONE_TERAFLOP)
    counts = {stage.kind: (stage.num_to_make, stage.num_up_to_date) for stage in none.stages}
    assert counts["expert_model"] == (3, 0)
    assert counts["raw_pile_shard"] == (4, 0)


def test_tokens_and_operations_of_a_training(branched):
    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    kinds = sizes.lineage.registry
    expert = kinds["expert_model"].price(sizes, "github")
    dense = kinds["dense_baseline"].price(sizes, "")
    # 2,048 tokens in steps of 4 blocks of 32; dense has those of three experts.
    assert (expert.num_tokens, dense.num_tokens) == (2048, 3 * 2048)
    steps = 16 * sizes.model.step(4, length=32, trained=sizes.model.trained((1, 2)))
    # Held-out blocks before and after are forward passes of 4 blocks of two splits at most.
    assert steps <= expert.operations <= steps + sizes.model.forward(2 * 256, length=32)


def test_named_devices_divide_the_time(branched):
    experiment, home = branched
    sizes = Sizes(home.lineage(experiment), is_on_gpu=True)
    kind = sizes.lineage.registry["expert_model"]
    price = kind.price(sizes, "github")
    h100 = named_device("H100", count=2)
    assert h100.rate(price.pace) == pytest.approx(0.4 * DEVICES["h100"].float32)
    from mdel_assets.planning.clock import OtherDevices

    # Three experts on two devices take two rounds.
    heavy = [dataclasses.replace(price, operations=1e15, core_seconds=0.0)] * 3
    slow = OtherDevices(device_of_rate(1.0, count=2))
    assert slow.seconds(kind, heavy, 1, sizes) == pytest.approx(2000.0, rel=0.01)
    assert slow.seconds(kind, heavy[:1], 1, sizes) == pytest.approx(500.0, rel=0.01)


def test_unknown_device_is_refused_with_the_list():
    with pytest.raises(UnknownKeyError, match=r"Did you mean 'h100'.*a100.*h200.*--tflops"):
        named_device("h1000")


def test_a_kind_without_a_price_is_listed(branched):
    experiment, home = branched
    lineage = home.lineage(experiment)
    registry = tuple(
        dataclasses.replace(kind, price=None) if kind.name == "perplexity_report" else kind
        for kind in lineage.registry.values()
    )
    other = Lineage(experiment, root=lineage.root, cache=lineage.cache, registry=registry)
    plan = plan_run(other, device=ONE_TERAFLOP)
    assert "perplexity_report" in plan.not_priced
    (line,) = [line for line in plan_lines(plan) if line.startswith("perplexity_report")]
    assert line.split()[1:3] == ["12", "0"]
    assert "not priced" in line
    assert "| perplexity_report | 12 | 0 | not priced" in plan_markdown(plan)
    assert "perplexity_report" in plan.as_json()["total"]["not_priced"]


def test_remedies_are_what_a_changed_experiment_saves(branched):
    experiment, home = branched
    lineage = home.lineage(experiment)
    plan = plan_run(lineage, device=ONE_TERAFLOP)
    (delta,) = [line for line in plan.remedies if line.startswith("training.store delta")]
    sizes = Sizes(lineage)
    num_frozen = sizes.model.num_parameters - sizes.model.trained((1, 2)).num_trained
    # Three experts, three of the random split and two baselines leave out their frozen tensors.
    assert f"{size_in_words(8 * 4 * num_frozen)} of disk" in delta
    (split,) = [line for line in plan.remedies if "random_split" in line]
    assert "saves" in split


def test_a_stage_that_does_not_fit_into_memory_is_warned_of(branched):
    experiment, home = branched
    plan = plan_run(home.lineage(experiment), device=ONE_TERAFLOP)
    assert not warnings_of(plan)
    tight = dataclasses.replace(
        plan,
        memory_free_bytes=1e6,
        stages=tuple(dataclasses.replace(stage, fits=False) for stage in plan.stages[-1:]),
    )
    (told,) = warnings_of(tight)
    assert "of which 1 MB are free" in told


def test_what_exceeds_a_limit_is_refused_with_figures_and_remedy(branched):
    experiment, home = branched
    plan = plan_run(home.lineage(experiment), device=ONE_TERAFLOP)
    refuse_excess(plan, max_hours=1.0, max_disk_bytes=1e9)
    with pytest.raises(
        LimitError, match=r"(?s)--max-hours allows 4 s.*training.store delta"
    ) as told:
        refuse_excess(plan, max_hours=0.001)
    assert "Nothing was made" in str(told.value)
    with pytest.raises(LimitError, match=r"of disk, --max-disk allows 1 MB"):
        refuse_excess(plan, max_disk_bytes=1e6)


def test_a_limit_is_refused_where_something_has_no_price(branched):
    experiment, home = branched
    plan = plan_run(home.lineage(experiment), device=ONE_TERAFLOP)

    def without_price(kind, why):
        changed = [
            dataclasses.replace(stage, not_priced=("one",), num_to_make=2, why=why)
            if stage.kind == kind
            else stage
            for stage in plan.stages
        ]
        return dataclasses.replace(plan, stages=tuple(changed))

    unknown_seed = without_price("seed_model", "owner/name is not known")
    refuse_excess(unknown_seed)
    with pytest.raises(
        LimitError,
        match=r"(?s)keeps within --max-hours and --max-disk is not known.*"
        r"seed_model \(1 of 2\): owner/name is not known.*"
        r"Make reachable.*'mdel run --until seed_model' first.*leave out --max-hours and",
    ):
        refuse_excess(unknown_seed, max_hours=1.0, max_disk_bytes=1e9)
    # What comes after the seed does not get its price by a run up to there.
    unknown_tasks = without_price("perplexity_report", "its dataset is not here")
    with pytest.raises(LimitError, match=r"'--until token_scores'\); or leave out --max-disk\."):
        refuse_excess(unknown_tasks, max_disk_bytes=1e9)
    with pytest.raises(LimitError, match=r"\(without seed_model: not priced\)"):
        refuse_excess(unknown_seed, max_hours=0.001)


def test_run_refuses_what_takes_too_much_disk_before_it_makes_anything(corpus, tmp_path):
    file = experiment_file(corpus, tmp_path)
    environment = {"MDEL_HOME": str(tmp_path / "home"), "MDEL_EXPERIMENT": str(file)}
    done = CliRunner().invoke(main, ["run", "--max-disk", "1MB"], env=environment)
    assert done.exit_code == 1
    assert "--max-disk allows 1 MB" in done.output
    assert not (tmp_path / "home" / "pico" / "shards").exists()


def test_plan_command_prints_json_for_a_named_device(corpus, tmp_path):
    file = experiment_file(corpus, tmp_path)
    environment = {"MDEL_HOME": str(tmp_path / "home")}
    command = ["plan", "-e", str(file), "--json", "--device", "a100", "--count", "4"]
    done = CliRunner().invoke(main, command, env=environment)
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["device"] == "4 x a100"
    assert content["total"]["num_to_make"] == sum(s["num_to_make"] for s in content["stages"])
    done = CliRunner().invoke(main, ["plan", "--device", "a1000"], env=environment)
    assert "Did you mean 'a100'" in done.output


def test_a_kept_plan_counts_for_its_own_experiment_alone(branched, corpus):
    experiment, home = branched
    lineage = home.lineage(experiment)
    plan = plan_run(lineage, device=ONE_TERAFLOP)
    keep_plan(lineage, plan)
    kept = kept_plan(lineage)
    assert kept
    assert kept.plan == plan
    other = pico_experiment(corpus, evaluation={"max_length": 16})
    assert kept_plan(home.lineage(other)) is None


def test_pages_of_the_job_and_of_assets_show_the_last_plan(branched):
    from mdel_assets.definitions import with_line_job
    from mdel_assets.defs.line_job import LINE_JOB

    experiment, home = branched
    lineage = home.lineage(experiment)
    plan = plan_run(lineage, device=ONE_TERAFLOP)
    keep_plan(lineage, plan)
    definitions = with_line_job(experiment, home)
    shown = definitions.resolve_job_def(LINE_JOB).metadata["plan"].value
    assert shown == plan_markdown(plan)
    assert "| expert_model | 3 | 0 |" in shown
    specs = {spec.key.path[-1]: spec for spec in definitions.resolve_all_asset_specs()}
    assert (
        specs["expert_model"].metadata["plan"].startswith("3 to make, 0 up to date, 6.1 k tokens")
    )


def test_keys_of_a_kind_are_the_lineages(branched):
    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    stages = plan_stages(
        sizes, [Wanted("expert_model", ("github", "arxiv"), 1)], clock_of_one_teraflop()
    )
    assert (stages[0].num_to_make, stages[0].num_up_to_date) == (2, 1)
    assert stages[0].num_tokens == 2 * 2048


def clock_of_one_teraflop():
    from mdel_assets.planning.clock import OtherDevices

    return OtherDevices(ONE_TERAFLOP)


def experiment_file(corpus, folder):
    """Write the pico experiment where a command can read it."""
    import yaml

    content = pico_experiment(corpus).model_dump(mode="json", exclude_unset=True)
    file = folder / "pico.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("20GB", 20e9), ("1.5 TB", 1.5e12), ("500m", 5e8), ("2GiB", 2.0 * 1024**3), ("123", 123.0)],
)
def test_sizes_are_read_as_people_write_them(text, num_bytes):
    assert parsed_size(text) == num_bytes


@pytest.mark.parametrize("text", ["8G", "8 gb", "8GiB"])
def test_sizes_of_memory_are_powers_of_1024_however_they_are_written(text):
    assert parsed_size(text, kilo=1024) == 8 * 2**30


def test_amounts_in_words():
    words = [amount_in_words(n) for n in (0, 12, 999, 1500, 123_456, 2.5e9)]
    assert words == ["0", "12", "999", "1.5 k", "123 k", "2.5 G"]
    assert [size_in_words(n) for n in (12, 1500)] == ["12 B", "1.5 kB"]
