"""A small corpus is told which share to hold out, so that its models can be judged."""

import re

import pytest

from mdel_assets.data.dataset_counts import SplitCount
from mdel_assets.data.held_out import held_out_advice
from mdel_assets.experiment.evaluation import MIN_DOCUMENTS
from mdel_assets.experiment.fields import Source
from mdel_assets.home import MdelHome
from mdel_assets.line.making import (
    make_all,
    make_one,
)
from mdel_assets_tests.conftest import make_documents, pico_experiment, write_shard

pytestmark = pytest.mark.in_use
SPLITS = ("validation_domain", "validation_pile")


def counts(train, validation, test=100):
    numbers = {"train": train, "validation_domain": validation, "test_domain": test}
    return {split: SplitCount(number, number, 0, 0, 1, 1) for split, number in numbers.items()}


def source(**settings):
    return Source(train=("a.jsonl",), **settings)


def test_enough_documents_need_no_advice():
    datasets = {"a": counts(1000, MIN_DOCUMENTS), "absent": counts(0, 0, 0)}
    assert held_out_advice(datasets, source=source(), splits=SPLITS) is None
    # Nobody looks at test text here.
    few_tests = {"a": counts(1000, 16, test=2)}
    assert held_out_advice(few_tests, source=source(), splits=SPLITS) is None
    assert held_out_advice(few_tests, source=source(), splits=["test_domain"])


def test_the_share_to_hold_out_is_that_of_the_smallest_domain():
    datasets = {"legal": counts(400, 4, 4), "hr": counts(880, 8, 12), "it": counts(5000, 50)}
    advice = held_out_advice(datasets, source=source(), splits=SPLITS)
    assert "but legal/validation_domain has 4, hr/validation_domain has 8. " in advice
    # 27 of 408 are 6.6 %.
    assert "Set source.holdout_fraction to 0.07 (it is 0.01)" in advice


def test_a_domain_too_small_to_share_is_named_and_files_are_asked_for_where_files_were_given():
    advice = held_out_advice({"tiny": counts(30, 1, 1)}, source=source(), splits=SPLITS)
    assert "'tiny' has 32 documents, too few for both training and evaluation" in advice
    assert "holdout_fraction" not in advice
    given = source(validation="v.jsonl")
    advice = held_out_advice({"a": counts(900, 3)}, source=given, splits=SPLITS)
    assert "Add files with more documents of these domains to source.validation." in advice
    assert "holdout_fraction" not in advice


def test_the_share_that_is_named_holds_out_enough(tmp_path, caplog):
    shard = write_shard(tmp_path / "all.jsonl.zst", make_documents({"Github": 300, "ArXiv": 500}))
    files = {"train": [str(shard)], "validation": None, "test": None}
    found = []
    for fraction in (0.01, None):
        advised = re.search(r"holdout_fraction to ([\d.]+)", caplog.text)
        settings = files | {"holdout_fraction": fraction or float(advised.group(1))}
        experiment = pico_experiment(tmp_path, source=settings)
        home = MdelHome(tmp_path / str(fraction))
        lineage = home.lineage(experiment)
        make_one(lineage, "raw_pile_shard", "all")
        make_one(lineage, "shard_documents", "all")
        caplog.clear()
        records = make_all(lineage, "domain_dataset", ["github", "arxiv", "freelaw"])
        found.append(records["github"].counts["validation_domain"]["num_domain_documents"])
        assert ("A verdict needs 16 documents" in caplog.text) is (fraction == 0.01)
    assert found[0] < MIN_DOCUMENTS <= found[1]
