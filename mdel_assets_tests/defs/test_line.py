"""The whole line through Dagster, on a corpus of forty documents per shard."""

import dataclasses
import json
import os
import shutil

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file

from mdel_assets.cli.main import main
from mdel_assets.defs.launch import run_line
from mdel_assets.defs.training import trained_result
from mdel_assets.errors import DamagedArtifactError, MergeError, MissingArtifactError
from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import KEY_OF, PICO, decompress, forge, pico_experiment, write_shard
from mdel_assets_tests.defs.finished_line import MODELS, materialize


def states(outcomes):
    return {outcome.state for outcome in outcomes}


def test_the_line_runs_from_shards_to_matrix(finished):
    _, home, outcomes = finished
    assert states(outcomes) == {"made", "absent"}, [o.message for o in outcomes]
    reports = home.root / "pico" / "reports"
    table = pq.read_table(reports / "perplexity.parquet")
    places = zip(*(table.column(n).to_pylist() for n in ("model", "dataset", "split")), strict=True)
    assert set(places) == {
        (model, dataset, split)
        for model in MODELS
        for dataset in ("github", "arxiv", "freelaw")
        for split in ("validation_domain", "validation_pile")
    }
    for name in ("perplexity.md", "perplexity.png", "record.json"):
        assert (reports / name).stat().st_size > 100


def test_every_model_loads_with_transformers(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, home, _ = finished
    models = home.root / "pico" / "models"
    alone = [models / name for name in ("seed", "dense", "dense-one")]
    for folder in (
        *alone,
        *models.glob("experts/*"),
        *models.glob("random/*"),
        *models.glob("merged/*"),
    ):
        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
        assert AutoTokenizer.from_pretrained(folder).eos_token == "<|endoftext|>"
        assert not list(folder.glob("*.bin"))
    recipe = yaml.safe_load((models / "merged" / "pair" / "mergekit_config.yml").read_text())
    assert recipe == {
        "merge_method": "linear",
        "models": [
            {"model": "expert-github", "parameters": {"weight": 3.0}},
            {"model": "seed"},
        ],
    }
    assert "| `expert_model 'github'` |" in (models / "merged" / "pair" / "README.md").read_text()


def test_a_second_run_does_nothing_and_loads_no_model(finished, monkeypatch):
    from mdel_assets.training import model_files

    def refuse(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(model_files, "load_model", refuse)
    experiment, home, _ = finished
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    assert states(outcomes) == {"up to date"}


def test_a_changed_setting_remakes_what_depends_on_it_and_nothing_else(finished, corpus):
    _, home, _ = finished
    merges = PICO["merges"] | {"pair": {"merge_method": "linear", "models": [{"model": "seed"}]}}
    lineage = home.lineage(pico_experiment(corpus, merges=merges))
    stale = [s for kind, keys in lineage.walk() for key in keys if (s := lineage.stale(kind, key))]
    # The report shows the settings.
    expected = [("merged_model", "pair"), ("experiment_report", "")]
    assert [(s.kind, s.key) for s in stale] == expected
    assert stale[0].reason == "changed: config members, expert_model 'github'"


def test_an_expert_shows_losses_chart_and_a_passed_check(finished):
    experiment, home, _ = finished
    result = materialize(experiment, home, "expert_model", "arxiv")
    (materialization,) = result.asset_materializations_for_node("expert_model")
    metadata = materialization.metadata
    assert metadata["loss_curve"].value.startswith("![loss](data:image/png;base64,")
    assert len(metadata["loss_curve"].value) < 70_000
    losses = {r.data["split"]: r.data for r in metadata["validation_losses"].records}
    assert set(losses) == {"validation_domain", "validation_pile"}
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("frozen_weights_unchanged", True)
    assert check.description == "All tensors outside of the trained layers equal the seed's."
    assert set(check.metadata) == {"num_changed_tensors"}


def test_checks_fail_when_what_they_guard_is_broken(finished, tmp_path, corpus):
    """Let artifacts be made wrong, and let the asset look at them again."""
    experiment, home, _ = finished
    broken = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, broken.root)
    shard = broken.root / "pico" / "shards" / "00" / "00.jsonl.zst"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    store = broken.lineage(experiment)
    forge(store.artifact("raw_pile_shard", "00"))
    counts = store.artifact("domain_dataset", "arxiv").require().counts
    overlap = counts["contamination"]["validation_pile"]
    overlap["num_contaminated_documents"] = overlap["num_documents"]
    forge(store.artifact("domain_dataset", "arxiv"), counts=counts | {"num_shared_documents": 1})
    counts = store.artifact("shard_documents", "01").require().counts
    forge(
        store.artifact("shard_documents", "01"),
        counts=counts | {"num_lines": counts["num_lines"] + 1},
    )
    for asset, key in (
        ("raw_pile_shard", "00"),
        ("shard_documents", "01"),
        ("domain_dataset", "arxiv"),
    ):
        result = materialize(experiment, broken, asset, key, raise_on_error=False)
        evaluations = result.get_asset_check_evaluations()
        assert [c.passed for c in evaluations] == [False] * len(evaluations)


def test_a_missing_input_fails_with_the_command_that_makes_it(corpus, home):
    experiment = pico_experiment(corpus)
    with pytest.raises(MissingArtifactError, match="--assets domain_dataset --partition arxiv"):
        materialize(experiment, home, "expert_model", "arxiv")


def test_a_missing_expert_and_an_absent_one_are_refused_in_a_recipe(finished, corpus, tmp_path):
    _, home, _ = finished
    partial = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, partial.root)
    shutil.rmtree(partial.root / "pico" / "models" / "experts" / "github")
    with pytest.raises(MissingArtifactError, match="--assets expert_model --partition github"):
        materialize(pico_experiment(corpus), partial, "merged_model", "mean-all")
    merges = {"m": {"merge_method": "linear", "models": [{"model": "expert:enron"}]}}
    with pytest.raises(MergeError, match="the corpus has no training document of that domain"):
        materialize(pico_experiment(corpus, merges=merges), partial, "merged_model", "m")


def test_one_failing_shard_stops_what_needs_it_and_says_so(corpus, home, tmp_path):
    bad = tmp_path / "bad.jsonl.zst"
    bad.write_bytes((corpus / "00.jsonl.zst").read_bytes()[:-5])
    source = {"train": [str(bad), str(corpus / "01.jsonl.zst")]}
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(pico_experiment(corpus, source=source), home, instance=instance))
    failed = {(o.kind, o.key): o.message for o in outcomes if o.state == "failed"}
    assert "truncated" in failed["shard_documents", "bad"]
    made = [(o.kind, o.key) for o in outcomes if o.state == "made"]
    assert ("shard_documents", "01") in made
    assert outcomes[-1].state == "skipped"
    assert not (home.root / "pico" / "documents" / "bad").exists()


@pytest.mark.slow
def test_the_dagster_command_line_makes_one_partition(finished, corpus, tmp_path):
    experiment, home, _ = finished
    path = tmp_path / "pico.yaml"
    content = json.loads(experiment.model_dump_json(exclude_none=True))
    path.write_text(yaml.safe_dump(content))
    environment = os.environ | {"MDEL_HOME": str(home.root), "MDEL_EXPERIMENT": str(path)}
    environment.pop("DAGSTER_HOME", None)
    (home.root / "pico" / "models" / "experts" / "freelaw" / "model.safetensors").unlink()
    words = ["-m", "dagster", "asset", "materialize"]
    words += ["-m", "mdel_assets.definitions", "--select", "expert_model"]
    warm_python.run([*words, "--partition", "freelaw"], env=environment, check=True)
    assert (home.root / "pico" / "models" / "experts" / "freelaw" / "model.safetensors").exists()
    unknown = warm_python.run([*words, "--partition", "freelow"], env=environment)
    assert unknown.returncode != 0
    assert "freelow" in unknown.stdout


@pytest.mark.slow
def test_mdel_run_status_and_matrix_speak_to_a_person(finished, tmp_path, monkeypatch):
    from click.testing import CliRunner

    experiment, home, _ = finished
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    again = CliRunner().invoke(main, ["run"])
    assert again.exit_code == 0, again.output
    assert "Nothing to do: all is up to date" in again.output
    assert "merged-mean-all" in again.output
    assert "Everything is up to date." in CliRunner().invoke(main, ["status"]).output
    monkeypatch.setenv("MDEL_EXPERIMENT", "sampel")
    wrong = CliRunner().invoke(main, ["status"])
    assert wrong.exit_code == 1
    assert "Did you mean 'sample'" in wrong.output


def test_contamination_is_a_warning_with_its_share(corpus, tmp_path):
    """A near copy of a training document stands in the validation shard."""
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    train = [json.loads(line) for line in decompress(folder / "00.jsonl.zst").splitlines()]
    quoted = {**train[0], "text": " ".join(f"word{n}" for n in range(30))}
    near_copy = {**quoted, "text": f"{quoted['text']} and more"}
    write_shard(folder / "00.jsonl.zst", [*train, quoted])
    write_shard(folder / "val.jsonl.zst", [near_copy])
    experiment, home = pico_experiment(folder), MdelHome(tmp_path / "home")
    for shard in ("00", "01", "val", "test"):
        materialize(experiment, home, "raw_pile_shard", shard)
        materialize(experiment, home, "shard_documents", shard)
    domain = KEY_OF[train[0]["meta"]["pile_set_name"]]
    result = materialize(experiment, home, "domain_dataset", domain)
    assert result.success
    (check,) = [
        c
        for c in result.get_asset_check_evaluations()
        if c.check_name == "evaluation_is_uncontaminated"
    ]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    (row,) = [
        record.data
        for record in check.metadata["overlap"].records
        if record.data["split"] == "validation_domain"
    ]
    assert (row["num_documents"], row["num_contaminated_documents"]) == (1, 1)


def test_a_dataset_shows_sizes_share_lengths_and_tokens_per_byte(finished):
    from transformers import AutoTokenizer

    experiment, home, _ = finished
    result = materialize(experiment, home, "domain_dataset", "arxiv")
    (materialization,) = result.asset_materializations_for_node("domain_dataset")
    shown = {name: entry.value for name, entry in materialization.metadata.items()}
    sizes, texts = {}, []
    for key in ("github", "arxiv", "freelaw"):
        folder = home.root / "pico" / "datasets" / key
        for split in ("train", "validation_domain", "test_domain"):
            for row in pq.read_table(folder / f"{split}.parquet").to_pylist():
                if row["domain"] == key:
                    sizes.setdefault(key, []).append(len(row["text"].encode()))
                    texts += [row["text"]] if (key, split) == ("arxiv", "train") else []
    assert shown["num_domain_documents"] == len(sizes["arxiv"])
    assert shown["num_domain_bytes"] == sum(sizes["arxiv"])
    total = sum(map(sum, sizes.values()))
    assert shown["share_of_corpus"] == pytest.approx(sum(sizes["arxiv"]) / total, abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(home.root / "pico" / "models" / "seed")
    num_tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    num_bytes = sum(len(text.encode()) for text in texts)
    assert shown["tokens_per_byte"] == pytest.approx(num_tokens / num_bytes, abs=1e-4)
    assert shown["document_lengths"].startswith("![document lengths](data:image/png;base64,")
    assert len(shown["sample"].records) == 5


def test_layer_differences_show_where_experts_moved_and_flag_a_frozen_tensor(finished, tmp_path):
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    expert = copy.root / "pico" / "models" / "experts" / "arxiv"
    tensors = load_file(expert / "model.safetensors")
    name = next(name for name in tensors if ".layers.0." in name and tensors[name].dim() == 2)
    tensors[name][0, 0] += 1.0
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    forge(copy.lineage(experiment).artifact("expert_model", "arxiv"))
    shutil.rmtree(copy.root / "pico" / "differences" / "arxiv")
    for place, passed in ((home, True), (copy, False)):
        result = materialize(experiment, place, "layer_differences", "arxiv")
        (check,) = result.get_asset_check_evaluations()
        assert (check.check_name, check.passed) == ("frozen_tensors_equal", passed)
        (materialization,) = result.asset_materializations_for_node("layer_differences")
        metadata = materialization.metadata
        assert metadata["changes"].value.startswith("![changes by layer](data:image/png;base64,")
        cosines = {row.data["expert"]: row.data["cosine"] for row in metadata["cosines"].records}
        assert set(cosines) == {"expert-github", "expert-freelaw"}
    assert check.metadata["changed_though_frozen"].value == {"arxiv": [name]}
    assert check.description.endswith(f"differ from the seed's (arxiv: 1, {name} first).")


@pytest.mark.in_use
def test_nothing_is_made_of_what_failed_a_blocking_check_until_it_passes(finished, tmp_path):
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    lineage = copy.lineage(experiment)
    expert = lineage.artifact("expert_model", "github")
    record = expert.require()
    details = record.details | {"changed_though_frozen": ["a.weight"]}
    result = trained_result(dataclasses.replace(record, details=details), expert)
    assert not result.check_results[0].passed
    message = r"expert_model 'github'.* it failed its check frozen_weights_unchanged\. "
    for kind, key in (("merged_model", "pair"), ("token_scores", "expert-github")):
        with pytest.raises(DamagedArtifactError, match=message):
            lineage.identity(kind, key)
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, copy, instance=instance))
    made = [(outcome.kind, outcome.keys) for outcome in outcomes if outcome.state == "made"]
    assert made == [("expert_model", ("github",))]
    assert lineage.current("merged_model", "pair")
