"""Ensembles of a line whose settings leave out text: general text, and special tokens."""

import pytest

from mdel_assets.line.making import make_all
from mdel_assets.reporting.contents import contents_of
from mdel_assets_tests.conftest import PICO, make_documents, pico_experiment, write_shard

SPECIAL = "<|endoftext|>"


def experiment_of(folder, **evaluation):
    """Return an experiment of two domains without general text, on documents as they are drawn."""
    return pico_experiment(
        folder,
        source={"validation": str(folder / "val.jsonl.zst"), "test": None},
        domains=PICO["domains"][:2],
        mixture={"general_ratio": 0.0},
        baselines={"dense": False, "dense_one": False, "random_split": False},
        merges={},
        evaluation=PICO["evaluation"] | {"sample_texts": {"num_documents": 0}} | evaluation,
    )


@pytest.fixture
def shards(tmp_path):
    """A corpus whose held-out documents hold the literal text of a special token."""
    sizes = {"Github": 12, "ArXiv": 12}
    write_shard(tmp_path / "00.jsonl.zst", make_documents(sizes))
    write_shard(tmp_path / "01.jsonl.zst", make_documents(sizes, first=100))
    held_out = make_documents(dict.fromkeys(sizes, 4), first=200)
    for document in held_out:
        document["text"] = document["text"].replace(" ", SPECIAL)
    write_shard(tmp_path / "val.jsonl.zst", held_out)
    return tmp_path


def test_a_line_without_general_text_that_reads_special_tokens_as_text_is_judged(shards, home):
    lineage = home.lineage(experiment_of(shards, special_tokens="text"))
    for kind in lineage.kinds():
        make_all(lineage, kind, lineage.keys(kind))
    found = lineage.artifact("ensemble_report").require().details["findings"]
    assert found[0].startswith("`ensemble-posterior-all`: too few documents to tell")
    told = (lineage.folder("ensemble_report") / "ensemble.md").read_text()
    assert told.endswith("## `validation_pile`\n\nNo text.\n")
    page = contents_of(lineage, lineage.artifact("experiment_report").require())
    assert page.together.rows
    assert [heat.split for heat in page.heats] == ["validation_domain", "validation_pile"]
