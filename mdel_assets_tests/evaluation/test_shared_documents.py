"""Averages over domains that hold the same documents: how much text they are really of."""

import numpy as np
import pytest

from mdel_assets.evaluation.matrix import build_matrix
from mdel_assets.scoring.perplexity import Cell, perplexity_row

SAMPLING = {"num_samples": 400, "seed": 0}


def average(split, ids_of):
    """Return the seed's average on ``split`` over domains with documents of these numbers."""
    bits = np.random.default_rng(0).uniform(1.0, 3.0, 100)
    cells = []
    for dataset, numbers in ids_of.items():
        sizes = np.full(len(numbers), 8)
        nll = bits[list(numbers)] * 8 * np.log(2)
        ids = [f"{number:032x}" for number in numbers]
        cells.append(Cell(dataset, split, ids, sizes, sizes, sizes, nll))
    told = {"model": "seed", "max_length": 16, "model_fingerprint": "", "dataset_fingerprint": ""}
    rows = [perplexity_row(cell, **told, **SAMPLING) for cell in cells]
    matrix = build_matrix(
        {"seed": rows}, {"seed": cells}, splits=[split], datasets=list(ids_of), **SAMPLING
    )
    return matrix.averages[0].macro


@pytest.mark.parametrize("split", ["validation_pile", "test_pile"])
def test_the_same_documents_count_once_however_many_domains_hold_them(split):
    one, three = (average(split, dict.fromkeys(domains, range(8))) for domains in ("a", "abc"))
    assert three.num_documents == one.num_documents == 8
    assert not three.is_enough
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_different_documents_count_each():
    found = average("validation_pile", {"a": range(8), "b": range(8, 16), "c": range(16, 24)})
    # Welch and Satterthwaite: 3 x 7 + 1.
    assert found.num_documents == 22
    assert found.is_enough
