"""What `mdel check`, `mdel status` and `mdel run` find in files and folders before they begin."""

import json

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.errors import ExperimentError, HomeError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.experiment.shard_locations import write_out
from mdel_assets.home import MdelHome
from mdel_assets.maintenance.experiment_checks import look_around, refuse_mistakes
from mdel_assets_tests.conftest import PICO, compress, pico_experiment

pytestmark = pytest.mark.in_use
DOMAINS = [{"key": "law", "name": "Law"}, {"key": "mail", "name": "Mail"}]


@pytest.fixture
def firm(tmp_path, monkeypatch):
    """Return a function that writes a firm's YAML and gives its lineage."""
    (tmp_path / "data").mkdir()
    labels = ["Law", "Mail", "Maill"]
    rows = [{"text": f"text {n}", "dept": labels[n % 3]} for n in range(30)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    compress(text.encode(), tmp_path / "data" / "a.jsonl.zst")
    for name, value in (("MDEL_HOME", "home"), ("MDEL_EXPERIMENT", "firm.yaml")):
        monkeypatch.setenv(name, str(tmp_path / value))

    def write(**changes):
        source = {"layout": "columns", "domain_field": "dept", "train": ["data/a.jsonl.zst"]}
        content = PICO | {"name": "firm", "domains": DOMAINS, "merges": {}} | changes
        content["source"] = source | changes.get("source", {})
        (tmp_path / "firm.yaml").write_text(yaml.safe_dump(content))
        experiment = load_experiment(str(tmp_path / "firm.yaml"))
        return MdelHome(tmp_path / "home").lineage(experiment)

    return write


def save_config(folder, *, weights=True, **changes):
    folder.mkdir(parents=True)
    config = {"model_type": "gpt2", "n_layer": 2, "n_positions": 16} | changes
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        (folder / "model.safetensors").write_bytes(b"")


def test_first_records_tell_documents_and_labels(firm):
    findings = look_around(firm())
    assert findings.mistakes == []
    (note,) = findings.notes
    assert "30 records read, 20 documents: law 10, mail 10" in note
    assert note.endswith("10 rejected (unknown_domain 10); labels of no domain: Maill 10")


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ({"targets": ["c_atn"]}, "training.adapter.targets: Unknown target 'c_atn'. Did you mean"),
        ({"targets": ["c_attn"]}, "'c_attn' lies outside of training.trained_layers"),
    ],
)
def test_targets_of_adapters_are_compared_with_the_seed(firm, tmp_path, adapter, told):
    save_config(tmp_path / "seed", n_positions=64)
    training = PICO["training"] | {"trained_layers": ["1.mlp"], "adapter": adapter}
    evaluation = {"max_length": 32}
    lineage = firm(seed_model={"path": "seed"}, training=training, evaluation=evaluation)
    (mistake,) = look_around(lineage).mistakes
    assert told in mistake
    pretrained = firm(training=training | {"adapter": {"targets": ["no_such"]}})
    (mistake,) = look_around(pretrained).mistakes
    assert (
        "training.adapter.targets: Unknown target 'no_such'. Known: dense, dense_4h_to_h" in mistake
    )
    whole = firm(training=training | {"adapter": {}}, variants={"a": variant_of(adapter)})
    (mistake,) = look_around(whole).mistakes
    assert mistake.startswith("variants.a: training.adapter.targets: Unknown target 'c_at")


def variant_of(adapter):
    return {"domain": "law", "training": {"adapter": adapter}}


def test_what_lies_elsewhere_is_named_and_not_asked_for(firm):
    source = {"train": ["https://corpus.invalid/b.jsonl", "hf://datasets/a/b/c.jsonl"]}
    findings = look_around(firm(source=source, seed_model={"path": "owner/name"}))
    assert findings.mistakes == []
    assert findings.notes == [
        "source.train: https://corpus.invalid/b.jsonl is remote and was not checked",
        "source.train: hf://datasets/a/b/c.jsonl is remote and was not checked",
        "seed_model.path: owner/name is not a local folder; taken as a Hub id and not checked",
    ]


def test_a_split_without_text_is_noted(firm):
    findings = look_around(firm(mixture={"general_ratio": 0.0}))
    assert findings.mistakes == []
    told = "evaluation.splits: 'validation_pile' holds no text, because mixture.general_ratio is 0"
    assert told in findings.notes
    assert told not in look_around(firm()).notes


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ftp://corpus.invalid/b.jsonl", "begins with ftp://, which is not read: expected a path"),
        ("https:///b.jsonl", "names no host: expected https://HOST/PATH"),
        ("https://?b.jsonl", "names no host"),
    ],
)
def test_an_address_that_cannot_be_fetched_from_is_refused(firm, address, told):
    mistakes = look_around(firm(source={"train": [address], "test": f"{address}.gz"})).mistakes
    assert [told in mistake for mistake in mistakes] == [True, True]


@pytest.mark.parametrize("pattern", ["data/**/*.jsonl", "data/*/*/*/*/*/*/*.jsonl"])
def test_a_glob_without_end_is_refused(firm, tmp_path, monkeypatch, pattern):
    for n in range(10):
        (tmp_path / "data" / str(n)).symlink_to(tmp_path / "data")
    monkeypatch.setattr("mdel_assets.experiment.shard_locations._MAX_LOOKED_AT", 1000)
    for n in range(1000 * ("**" in pattern)):
        (tmp_path / "data" / f"{n}.txt").touch()
    (mistake,) = look_around(firm(source={"train": [pattern]})).mistakes
    assert "leads through more than 1,000 files and folders. Begin it with the" in mistake


def test_a_glob_goes_through_folders_but_not_through_links(firm, tmp_path):
    for name in ("one/a.jsonl", "one/two/b.jsonl", "one/two/.c.jsonl", "c.txt"):
        path = tmp_path / "data" / "deep" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / "data" / "deep" / "link").symlink_to(tmp_path / "data" / "deep" / "one")
    for pattern in ("deep/**/*.jsonl", "deep/*/**/*.jsonl", "../data/deep/o*/*/[a-b].jsonl"):
        found = write_out(f"data/{pattern}", folder=str(tmp_path))
        assert found == sorted(map(str, tmp_path.glob(f"data/{pattern}"))), pattern
        assert found


@pytest.mark.parametrize("suffix", ["csv", "csv.zst", "tsv"])
def test_a_tables_columns_and_first_rows_are_looked_at(firm, tmp_path, suffix):
    cut, separator = (3000 if "zst" in suffix else 30), "\t" if suffix == "tsv" else ","
    rows = [("text", "dept")] + [(f'"text {n}\nof two lines"', "Law") for n in range(cut)]
    content = "".join(separator.join(row) + "\n" for row in rows).encode()
    path = tmp_path / "data" / f"a.{suffix}"
    compress(content, path) if "zst" in suffix else path.write_bytes(content)
    source = {"train": [f"data/a.{suffix}"]}
    findings = look_around(firm(source=source))
    assert findings.mistakes == []
    # A thousand lines end inside of a row.
    assert f"{min(cut, 499)} documents: law {min(cut, 499)}" in findings.notes[0]
    (mistake,) = look_around(firm(source=source | {"text_field": "body"})).mistakes
    assert "has no column 'body'. Its columns: text, dept" in mistake


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "text,dept\nÄrger,Law\n".encode("latin-1"), "'iconv -f WINDOWS-1252 -t UTF-8'"),
        ("a.jsonl", '{"text": "Ä", "dept": "Law"}\n'.encode("latin-1"), "than UTF-8, such as Wind"),
        ("a.csv", b"text,dept\rone,Law\r", "end in carriage returns alone: convert them with"),
        ("a.jsonl", b'{"text": "a"}\r{"text": "b"}', "end in carriage returns alone: convert them"),
        ("a.csv", b"text,dept\n", "holds no record: it is empty, or a header alone"),
        ("a.csv", b"", "has no first row that names its columns"),
        ("a.jsonl", b'{"text": "a", "dept": 1.5}\n', "domain_not_a_label': 1}. A label has to be"),
    ],
)
def test_why_a_file_cannot_be_read_is_told(firm, tmp_path, name, content, told):
    (tmp_path / "data" / name).write_bytes(content)
    (mistake,) = look_around(firm(source={"train": [f"data/{name}"]})).mistakes
    assert told in mistake
    assert "give its name the suffix" not in mistake


def test_everything_that_is_not_there_is_told_at_once(firm, tmp_path, monkeypatch):
    (tmp_path / "shell" / "data").mkdir(parents=True)
    (tmp_path / "shell" / "data" / "b.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path / "shell")
    lineage = firm(
        source={
            "train": ["data/b.jsonl", "data/*.parquet", "sample://trian.jsonl.zst", "hf://x"],
            "test": "data/test.jsonl",
        },
        seed_model={"path": "./seed"},
        merges={"m": {"merge_method": "linear", "models": [{"model": "a/b/c"}]}},
        evaluation={"references": {"r": {"path": "sample://smollm"}}},
    )
    with pytest.raises(ExperimentError) as refused:
        refuse_mistakes(lineage)
    message = str(refused.value)
    for told in (
        "has 8 mistakes",
        f"data/b.jsonl'. Relative paths start at the YAML's folder, {tmp_path}; the work",
        "data/*.parquet' matches no file",
        "source.train: Unknown sample shard 'trian.jsonl.zst'. Did you mean 'train.jsonl.zst'",
        "'hf://x' is not of the form hf://datasets/OWNER/NAME",
        "source.test: ",
        "there is no folder '",
        "seed'. Give one made by save_pretrained, or a Hub id OWNER/NAME",
        "merges.m: ",
        "evaluation.references.r.path: Unknown sample model 'smollm'. Did you mean 'smollm2-135m'",
    ):
        assert told in message


def test_a_seed_folders_own_sizes_are_compared_with_the_settings(firm, tmp_path):
    save_config(tmp_path / "models" / "seed")
    training = PICO["training"] | {"trained_layers": [1, 2]}
    findings = look_around(firm(seed_model={"path": "models/seed"}, training=training))
    assert findings.notes[-1] == "seed_model: gpt2 of 2 layers that reads 16 tokens"
    assert findings.mistakes == [
        "training.block_size is 32, but the seed model reads at most 16 tokens: lower it to 16",
        "training.trained_layers: layer 2 does not exist; the seed model has 2 layers, 0 to 1",
        "evaluation.max_length is 32, but the seed model reads at most 16 tokens: lower it to 16",
    ]
    save_config(tmp_path / "bare", weights=False)
    (mistake,) = look_around(firm(seed_model={"path": "./bare"})).mistakes
    assert "has no weights in safetensors" in mistake


def test_a_folder_that_only_the_shell_has_is_not_taken_for_a_hub_id(firm, tmp_path, monkeypatch):
    save_config(tmp_path / "shell" / "models" / "seed")
    monkeypatch.chdir(tmp_path / "shell")
    (mistake,) = look_around(firm(seed_model={"path": "models/seed"})).mistakes
    assert "'models/seed' is a folder in the working folder, but relative paths" in mistake


def test_what_the_shell_has_by_the_same_name_is_told_of(firm, tmp_path, monkeypatch):
    save_config(tmp_path / "models" / "seed", n_layer=3, n_positions=64)
    save_config(tmp_path / "shell" / "models" / "seed")
    (tmp_path / "shell" / "data").mkdir()
    (tmp_path / "shell" / "data" / "a.jsonl.zst").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "shell")
    source = {"max_reject_rate": 0.5}
    findings = look_around(firm(source=source, seed_model={"path": "models/seed"}))
    assert findings.mistakes == []
    train, seed = findings.doubts
    path = tmp_path / "data" / "a.jsonl.zst"
    assert train.startswith(f"source.train: {path} in the YAML's folder is read, not 'data/")
    assert seed.startswith(f"seed_model.path: {tmp_path / 'models' / 'seed'} in the")


def test_records_without_the_field_are_refused_at_the_door(firm):
    (mistake,) = look_around(firm(source={"text_field": "body"})).mistakes
    assert "a.jsonl holds no readable document in 30 lines" in mistake
    assert "source.text_field" in mistake


def test_what_is_wanted_may_come_after_the_first_records(firm):
    """Files are often sorted by their labels."""
    domains = [{"key": "tax", "name": "Tax"}]
    findings = look_around(firm(domains=domains, source={"other_labels": "leave_out"}))
    assert findings.mistakes == []
    assert "judging by its first records: a.jsonl holds no readable" in findings.doubts[0]


def test_first_records_of_which_too_many_are_rejected_are_a_doubt(firm):
    (doubt,) = look_around(firm()).doubts
    assert doubt.endswith(
        "a share of 0.33 of its first records is rejected; source.max_reject_rate allows 0.0001 of "
        "a shard"
    )
    assert look_around(firm(source={"max_reject_rate": 0.5})).doubts == []


@pytest.mark.parametrize("name", ["a\0b.jsonl", "x" * 5000])
def test_a_name_that_no_file_can_have_is_no_file(firm, name):
    (mistake,) = look_around(firm(source={"train": [name]})).mistakes
    assert "there is no file" in mistake


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", "\ufeff\n"), ("utf-16", ""), ("utf-16-be", "\ufeff")]
)
def test_the_head_of_a_long_array_is_read_whatever_its_encoding(firm, tmp_path, encoding, mark):
    rows = [{"text": "word " * 100, "dept": "Law"} for _ in range(4000)]
    path = tmp_path / "data" / "rows.json"
    path.write_bytes((mark + json.dumps(rows, indent=1)).encode(encoding))
    findings = look_around(firm(source={"train": ["data/rows.json"]}))
    assert findings.mistakes == []
    assert "1,000 documents: law 1,000" in findings.notes[0]


def test_large_files_in_folders_are_not_read_whole(firm, tmp_path):
    for name in ("Law", "Mail"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        (tmp_path / "corpus" / name / "a.txt").write_text("text")
        with (tmp_path / "corpus" / name / "b.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": f"text {n}"}) + "\n" for n in range(3000))
    findings = look_around(
        firm(source={"layout": "folders", "domain_field": None, "train": ["corpus"]})
    )
    assert findings.mistakes == []
    assert "law 1,001, mail 1,001" in findings.notes[0]


def test_one_file_by_two_names_cannot_be_for_training_and_for_validation(firm, tmp_path):
    (tmp_path / "data" / "held_out.jsonl.zst").symlink_to(tmp_path / "data" / "a.jsonl.zst")
    (mistake,) = look_around(firm(source={"validation": "data/held_out.jsonl.zst"})).mistakes
    assert mistake.startswith("source.train and source.validation are both '")
    assert "every document of source.train would be removed as a duplicate" in mistake


def test_commands_refuse_and_make_nothing(firm, tmp_path):
    firm(source={"train": ["data/none.jsonl"]})
    for command in ("status", "run", "check"):
        done = CliRunner().invoke(main, [command])
        assert done.exit_code == 1
        assert "data/none.jsonl'. Relative paths start" in done.output
    assert not (tmp_path / "home").exists()


def test_check_says_what_there_is(firm, tmp_path):
    firm()
    done = CliRunner().invoke(main, ["check", str(tmp_path / "firm.yaml")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Experiment 'firm': 2 domains, 7 models to score at most; a seed")
    assert "law 10, mail 10" in done.output
    assert done.output.endswith("No mistake was found.\n")


def test_what_is_fetched_already_is_not_missed(finished, tmp_path):
    """Sources of a finished line may be gone: nothing is made of them any more."""
    _, home, _ = finished
    gone = pico_experiment(tmp_path)
    assert look_around(home.lineage(gone)).mistakes == []


def test_a_home_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"MDEL_HOME is .*which is not writable"):
        MdelHome(tmp_path / "file" / "home").initialize("firm")
