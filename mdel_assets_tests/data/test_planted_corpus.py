"""The data stage against an oracle, on 5,000 documents with every kind of dirt planted."""

import json
import os
import signal
import time

import pyarrow.parquet as pq
import pytest
import yaml

from mdel_assets.experiment.fields import SPLITS
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.data.planted_corpus import KEYS, Oracle, plant

DOMAINS = [
    domain | {"aliases": ["GitHub"]} if domain["key"] == "github" else domain
    for domain in PICO["domains"]
]


def experiment(folder):
    source = {"validation": str(folder / "val.jsonl.zst"), "test": None, "max_reject_rate": 0.1}
    return pico_experiment(folder, source=source, domains=DOMAINS)


def make(home, folder):
    lineage = home.lineage(experiment(folder))
    for shard in ("00", "01", "val"):
        make_one(lineage, "raw_pile_shard", shard)
        make_one(lineage, "shard_documents", shard)
    make_all(lineage, "domain_dataset", lineage.experiment.domain_keys)
    return lineage


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    plant(folder)
    return folder


@pytest.fixture(scope="module")
def made(planted, tmp_path_factory):
    return make(MdelHome(tmp_path_factory.mktemp("home")), planted)


@pytest.fixture(scope="module")
def oracle(planted):
    return Oracle(planted)


def column(path, name):
    return pq.read_table(path).column(name).to_pylist()


@pytest.mark.parametrize("shard", ["00", "01", "val"])
def test_documents_and_rejects_of_a_shard_are_the_oracles(made, oracle, shard):
    documents = made.artifact("shard_documents", shard)
    counts = documents.require().counts
    for key in KEYS:
        expected = oracle.documents[shard].get(key, [])
        path = documents.folder / f"{key}.parquet"
        assert path.exists() == bool(expected)
        if expected:
            assert column(path, "text") == expected
            sizes = [len(text.encode()) for text in expected]
            assert column(path, "num_bytes") == sizes
            assert counts["domains"][key] == {
                "num_documents": len(expected),
                "num_bytes": sum(sizes),
            }
    rejects = pq.read_table(documents.folder / "rejects.parquet").to_pylist()
    assert [(r["line_number"], r["line"]) for r in rejects] == oracle.rejects[shard]
    assert {r["file"] for r in rejects} == {f"{shard}.jsonl.zst"}
    assert counts["num_blank_lines"] == oracle.num_blank[shard]
    assert counts["num_without_text"] == oracle.num_without_text[shard]


@pytest.mark.parametrize("domain", KEYS)
def test_splits_of_a_domain_are_the_oracles(made, oracle, domain):
    folder = made.folder("domain_dataset", domain)
    expected = oracle.dataset(domain)
    for split in SPLITS:
        found = column(folder / f"{split}.parquet", "text")
        assert len(found) == len(set(found))
        assert set(found) == expected[split]


def test_held_out_and_general_halves_are_not_empty(oracle):
    """The oracle's own figures: a test that compares nothing with nothing would pass above."""
    sizes = {split: len(texts) for split, texts in oracle.dataset("arxiv").items()}
    assert sizes["train"] > 2000
    assert min(sizes.values()) > 5


@pytest.mark.parametrize("domain", KEYS)
def test_no_two_splits_and_no_two_halves_share_a_document(made, domain):
    folder = made.folder("domain_dataset", domain)
    halves = []
    for split in SPLITS:
        table = pq.read_table(folder / f"{split}.parquet").to_pylist()
        halves += [
            {row["document_id"] for row in table if (row["domain"] == domain) == is_own}
            for is_own in (True, False)
        ]
    assert sum(map(len, halves)) == len(set().union(*halves))


def digests(lineage, *, domains=KEYS):
    """Return the record of every data artifact: it holds a digest of each file."""
    artifacts = [lineage.artifact("shard_documents", s) for s in ("00", "01", "val")]
    artifacts += [lineage.artifact("domain_dataset", key) for key in domains]
    return {a.label: json.loads(a.record_path.read_text())["files"] for a in artifacts}


def write_experiment(folder, planted):
    content = PICO | {"source": experiment(planted).source.model_dump(mode="json")}
    content["domains"] = DOMAINS
    path = folder / "planted.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


SCRIPT = """
import sys
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from pathlib import Path
home = MdelHome(Path(sys.argv[2]))
lineage = home.lineage(load_experiment(sys.argv[1]))
for shard in ("00", "01", "val"):
    make_one(lineage, "raw_pile_shard", shard)
    make_one(lineage, "shard_documents", shard)
print("assembling", flush=True)
make_all(lineage, "domain_dataset", lineage.experiment.domain_keys)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in the pass", "while assembling"])
def test_a_killed_run_gives_the_same_bytes_when_run_again(made, planted, tmp_path, moment):
    path = write_experiment(tmp_path, planted)
    home = tmp_path / "home"
    words = ["-c", SCRIPT, path, home]
    with warm_python.start(words) as process:
        if moment == "while assembling":
            process.read_until("assembling")
        else:
            folder = home / "pico" / "documents"
            while not list(folder.glob(".*tmp*/*.parquet")) and process.poll() is None:
                time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    warm_python.run(words, check=True)
    lineage = MdelHome(home).lineage(experiment(planted))
    assert digests(lineage) == digests(made)
    leftovers = [p.name for p in (home / "pico").rglob("*") if p.name.startswith(".")]
    assert [name for name in leftovers if ".tmp-" not in name] == []


@pytest.mark.slow
def test_two_workers_give_the_same_bytes_as_one(made, planted, tmp_path):
    environment = os.environ | {
        "MDEL_EXPERIMENT": str(write_experiment(tmp_path, planted)),
        "MDEL_HOME": str(tmp_path / "home"),
    }
    # The line goes on to train; the data stage is all that this test waits for.
    words = [*warm_python.MDEL, "run", "--workers", "2"]
    with warm_python.start(words, env=environment) as process:
        process.read_until("made        domain_dataset")
        process.terminate()
    lineage = MdelHome(tmp_path / "home").lineage(experiment(planted))
    # The line makes nothing for a domain that the corpus lacks.
    present = [key for key in KEYS if key != "enron"]
    assert digests(lineage, domains=present) == digests(made, domains=present)
