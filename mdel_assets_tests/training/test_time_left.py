"""How long the rest of a line takes: operations by hand, and a pace by what was made."""

import pytest

from mdel_assets.errors import MissingArtifactError
from mdel_assets.training.time_left import TimeLeft, operations_of
from mdel_assets_tests.conftest import pico_experiment


def test_operations_are_six_for_each_parameter_and_token_of_a_training(finished):
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    parameters = lineage.artifact("seed_model").require().details["num_parameters"]
    assert operations_of(lineage, "expert_model") == 6 * parameters * 2048
    assert operations_of(lineage, "dense_baseline") == 3 * 6 * parameters * 2048
    assert operations_of(lineage, "merged_model") == 0


def test_the_pace_so_far_tells_how_long_the_rest_takes(finished, corpus):
    _, home, _ = finished
    # Experts of another training are all to be made anew: three, and three times as much as dense.
    training = {"trained_layers": [1, 2], "block_size": 32, "batch_size": 4, "num_tokens": 4096}
    lineage = home.lineage(pico_experiment(corpus, training=training))
    left = TimeLeft(lineage)
    assert left.of(["expert_model"]) is None
    left.count("merged_model", 2, 100.0)
    assert left.of(["expert_model"]) is None
    left.count("expert_model", 1, 5.0)
    assert left.of(["expert_model"]) == pytest.approx(15.0)
    assert left.of(["expert_model", "dense_baseline"]) == pytest.approx(30.0)


@pytest.mark.in_use
def test_scorings_are_not_judged_by_trainings_nor_much_by_little(finished, corpus):
    _, home, _ = finished
    training = {"trained_layers": [1, 2], "block_size": 32, "batch_size": 4, "num_tokens": 204800}
    left = TimeLeft(home.lineage(pico_experiment(corpus, training=training)))
    left.count("seed_model", 1, 8.0)
    one = operations_of(left.lineage, "expert_model")
    assert left.of(["token_scores"]) == 0
    # Three experts are left: they are judged by a hundredth of them, and not by less.
    assert left.operations < 3 * one / 100
    assert left.of(["expert_model", "token_scores"]) is None
    left.operations = 3 * one / 100
    assert left.of(["expert_model", "token_scores"]) == pytest.approx(800.0)


def test_before_there_is_a_seed_nothing_is_said(lineage):
    with pytest.raises(MissingArtifactError):
        operations_of(lineage, "expert_model")
    assert TimeLeft(lineage, operations=1.0, seconds=1.0).of(["expert_model"]) is None
