"""What a search is scored on: other documents than the matrix, as far as there are others."""

import math

import numpy as np
import pytest

from mdel_assets.data.document_writer import document_id
from mdel_assets.errors import ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.merge_recipe import Search
from mdel_assets.merging.search_report import judge, sentence
from mdel_assets.merging.search_texts import validation_subsample
from mdel_assets.scoring.evaluation_documents import evaluation_documents
from mdel_assets.scoring.perplexity import Cell
from mdel_assets_tests.conftest import write_split

EVALUATION = Evaluation(splits=("validation_domain",), max_documents=4)


def dataset(path, domain, count):
    path.mkdir()
    texts = [f"{domain} {number} " + "ä" * 50 for number in range(count)]
    write_split(path / "validation_domain.parquet", texts, domain=domain)
    return path


def subsample(datasets, **search):
    return validation_subsample(datasets, search=Search(**search), evaluation=EVALUATION)


def test_documents_of_the_matrix_are_taken_last(tmp_path):
    datasets = {
        "many": dataset(tmp_path / "many", "many", 12),
        "few": dataset(tmp_path / "few", "few", 6),
        "none": dataset(tmp_path / "none", "none", 0),
    }
    drawn = subsample(datasets, num_documents=5)
    evaluated = evaluation_documents(datasets, EVALUATION)
    ids = [document_id(text.encode()) for text in drawn.texts]
    shared = [d for d, key in zip(drawn.domain_of_D, ids, strict=True) if key in evaluated]
    assert drawn.domain_of_D == ["many"] * 5 + ["few"] * 5
    # Six documents, four of them evaluated: two others, and three that cannot be avoided.
    assert shared == ["few"] * 3
    assert drawn.num_also_evaluated == 3
    assert drawn.texts == subsample(datasets, num_documents=5).texts
    assert drawn.texts != subsample(datasets, num_documents=5, seed=1).texts


def test_long_documents_are_cut_at_a_character_and_their_bytes_are_those_of_the_rest(tmp_path):
    drawn = subsample({"x": dataset(tmp_path / "x", "x", 1)}, max_characters=6)
    assert drawn.texts == ["x 0 ää"]
    assert drawn.num_bytes_D == [8]


def test_bits_per_byte_weigh_a_domains_documents_by_their_bytes(tmp_path):
    datasets = {name: dataset(tmp_path / name, name, 2) for name in ("a", "b")}
    drawn = subsample(datasets, max_characters=8)
    assert drawn.num_bytes_D == [12, 12, 12, 12]
    nll = np.array([12.0, 36.0, 24.0, 0.0]) * math.log(2)
    assert drawn.bits_per_byte(nll) == pytest.approx({"a": 2.0, "b": 1.0})


def test_a_corpus_without_validation_text_is_refused(tmp_path):
    with pytest.raises(ScoringError, match="No domain has validation text"):
        subsample({"x": dataset(tmp_path / "x", "x", 0)})


def cell(dataset_key, split, nll, sizes):
    count = len(nll)
    ones = np.ones(count, np.int64)
    ids = [f"{number:032x}" for number in range(count)]
    nats = np.array(nll) * math.log(2)
    return Cell(dataset_key, split, ids, ones, np.array(sizes, np.int64), ones, nats)


@pytest.mark.parametrize(("times", "word"), [(8, "better than"), (1, "too few documents to")])
def test_a_verdict_is_paired_and_every_domain_counts_once(times, word):
    sizes = {"a": [10, 30] * times, "b": [100, 100] * times}
    ours = [cell("a", "test_domain", [20, 60] * times, sizes["a"])]
    ours += [cell("b", "test_domain", [100, 300] * times, sizes["b"])]
    ours += [cell("a", "test_pile", [], [])]
    # Each document costs the rival half a bit per byte more.
    rival = [cell("a", "test_domain", [25, 75] * times, sizes["a"])]
    rival += [cell("b", "test_domain", [150, 350] * times, sizes["b"])]
    rival += [cell("a", "test_pile", [], [])]
    scope = Evaluation(splits=("test_domain", "test_pile"), num_bootstrap_samples=200)
    (verdict,) = judge({"searched": ours, "mean": rival}, evaluation=scope, ours="searched")
    assert verdict.bits_per_byte == pytest.approx({"searched": 2.0, "mean": 2.5})
    assert verdict.domains["b"] == pytest.approx({"searched": 2.0, "mean": 2.5})
    assert verdict.num_documents == 4 * times
    (change,) = verdict.changes
    # Paired: however the documents are drawn, the difference is the same.
    assert (change.value, change.low, change.high) == pytest.approx((-0.5, -0.5, -0.5))
    said = sentence(verdict, change)
    assert f"documents: {word}" in said
    assert "the mean, -0.5000 bits per byte" in said
