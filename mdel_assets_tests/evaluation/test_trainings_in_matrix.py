"""A matrix of models that were trained several times: means, pairs, and what intervals hold."""

import math

import pytest

from mdel_assets.evaluation.changes import changes_figure
from mdel_assets.evaluation.matrix_markdown import matrix_markdown, matrix_text
from mdel_assets.scoring.perplexity import read_cells
from mdel_assets_tests.evaluation.test_matrix import (
    MODELS,
    make_matrix,
    repeated,
    row,
    write_scores,
)

# Two further trainings of the seed and of dense, and one of the expert. Where all documents move
# alike, trainings alone differ.
TRAINED_AGAIN = [
    {
        "seed": {"a": [2.1, 4.1], "b": [1.3] * 8},
        "dense": {"a": [1.2, 3.2], "b": [1.1] * 8},
        "expert-a": {"a": [1.5, 3.0], "b": [1.5] * 8},
    },
    {
        "seed": {"a": [2.2, 4.2], "b": [1.0] * 8},
        "dense": {"a": [1.1, 3.1], "b": [1.1] * 8},
    },
]


@pytest.fixture
def trained(tmp_path):
    """Enough documents for verdicts, seed and dense of three trainings, the merge of one."""
    further = [
        {
            name: read_cells(write_scores(tmp_path / f"{number}" / name, bits))
            for name, bits in repeated(models).items()
        }
        for number, models in enumerate(TRAINED_AGAIN)
    ]
    return make_matrix(tmp_path / "line", repeated(MODELS), further=further)


def test_a_row_is_the_mean_over_trainings_with_their_interval(trained):
    dense = row(trained, "dense", "a")
    assert dense["bits_per_byte"] == pytest.approx(2.1)
    assert dense["perplexity"] == pytest.approx(2 ** (2.1 * 10 / 5))
    assert dense["num_trainings"] == 3
    # Changes from the seed of the same training: -1.0, -0.9 and -1.1, alike on all documents.
    assert dense["change_from_seed"] == pytest.approx(-1.0)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert dense["change_from_seed_low"] == pytest.approx(-1.0 - half)
    assert dense["change_from_seed_high"] == pytest.approx(-1.0 + half)
    average = {a.model: a for a in trained.averages}["dense"]
    # On b, the changes are 0.1, -0.2 and 0.1.
    assert average.change.value == pytest.approx((-0.45 - 0.55 - 0.5) / 3)
    assert average.micro == pytest.approx((2.1 * 16 + 1.1 * 64) / 80)


def test_a_model_of_fewer_trainings_is_compared_with_what_it_was_trained_from(trained):
    expert = row(trained, "expert-a", "b")
    assert (expert["num_trainings"], expert["bits_per_byte"]) == (2, pytest.approx(1.35))
    # 1.2 - 1.0 and 1.5 - 1.3: the seed of the third training has nothing to do with it.
    assert expert["change_from_seed"] == pytest.approx(0.2)
    merged = row(trained, "merged-m", "b")
    assert (merged["num_trainings"], merged["change_from_seed"]) == (1, pytest.approx(-0.1))
    assert trained.intervals_in_words == (
        "Figures are means, and intervals are over documents and 3 trainings. Of fewer trainings: "
        "`expert-a` 2, `merged-m` 1."
    )


def test_reports_say_what_their_intervals_hold(tmp_path, trained):
    once = make_matrix(tmp_path / "once", MODELS)
    lacking = "Intervals are over documents alone: they do not hold what another training"
    for told in (matrix_markdown(once), matrix_text(once)):
        assert told.count(lacking) == 1
        assert "trainings" not in told.replace(once.intervals_in_words, "")
    for told in (matrix_markdown(trained), matrix_text(trained)):
        assert lacking not in told
        assert told.count("interval over documents and 3 trainings") == 1
        assert told.count("intervals over documents and 3 trainings") == 1
        assert told.count("intervals are over documents and 3 trainings") == 1
    drawn = changes_figure(trained, "validation_domain")
    assert drawn.legends[0].get_title().get_text().endswith("over documents and 3 trainings")


def test_a_training_of_other_documents_does_not_count(tmp_path):
    other = {"dense": {"a": [1.2, 3.2, 4.0], "b": [1.1] * 8}}
    cells = read_cells(write_scores(tmp_path / "other", other["dense"]))
    matrix = make_matrix(tmp_path / "line", MODELS, further=[{"dense": cells}])
    assert row(matrix, "dense", "a")["num_trainings"] == 1
    assert row(matrix, "dense", "a")["bits_per_byte"] == pytest.approx(2.0)


def test_a_training_counts_only_after_those_before_it(tmp_path):
    """Else the third training of a model would be compared with the second of the seed."""
    third = {"dense": read_cells(write_scores(tmp_path / "third", TRAINED_AGAIN[1]["dense"]))}
    matrix = make_matrix(tmp_path / "line", MODELS, further=[{}, third])
    assert row(matrix, "dense", "a")["num_trainings"] == 1
    assert row(matrix, "dense", "a")["bits_per_byte"] == pytest.approx(2.0)
