"""The search for weights: on functions whose minimum is known, and whatever the function is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdel_assets.errors import ScoringError
from mdel_assets.merging.search import search_weights, starting_points
from mdel_assets.merging.surrogate import fit_quadratic
from mdel_assets.merging.trials import TrialLog, read_trials

MOST = 40


def bowl(optimum, *, spread=20.0, seed=0):
    """Return a quadratic function of weights with its minimum of 2 at ``optimum``.

    Its curvatures differ by a factor of ``spread``, along directions that are not the axes.
    """
    size = len(optimum)
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    curvature = axes @ np.diag(np.geomspace(1, spread, size)) @ axes.T / spread

    def score(weights):
        offset = weights - np.array(optimum)
        value = 2 + float(offset @ curvature @ offset)
        return {"github": value - 0.5, "arxiv": value + 0.5}

    return score


def search(path, score, *, num_models, num_trials=MOST, num_groups=1):
    log = TrialLog(path / "trials.jsonl")
    best = search_weights(
        score, num_models=num_models, num_trials=num_trials, log=log, num_groups=num_groups
    )
    return best, list(log)


@pytest.mark.parametrize(("size", "tolerance"), [(1, 1e-6), (2, 1e-6), (5, 1e-4), (8, 2e-3)])
def test_the_minimum_of_a_bowl_is_found(tmp_path, size, tolerance):
    optimum = np.linspace(0.05, 0.7, size)
    best, trials = search(tmp_path, bowl(optimum), num_models=size)
    assert best.bits_per_byte == pytest.approx(2.0, abs=tolerance)
    assert len(trials) <= MOST
    # The flattest direction's curvature is a twentieth of the steepest one's.
    np.testing.assert_allclose(best.weights, optimum, atol=(20 * tolerance) ** 0.5)


def test_more_weights_than_trials_still_gain_most_of_what_there_is(tmp_path):
    optimum = np.random.default_rng(1).uniform(0.0, 0.3, 44)
    score = bowl(optimum, spread=4.0)
    best, trials = search(tmp_path, score, num_models=22, num_groups=2)
    starts = min(trial.bits_per_byte for trial in trials[: len(starting_points(22))])
    assert best.bits_per_byte - 2 < 0.6 * (starts - 2)
    assert len(trials) == MOST


def test_starting_points_come_first_and_are_what_they_are_called():
    points = starting_points(4, num_groups=2)
    assert list(points) == ["seed", "uniform mean", "sum times 0.3", "sum times 0.6", "sum times 1"]
    assert [set(weights) for weights in points.values()] == [{0.0}, {0.25}, {0.3}, {0.6}, {1.0}]
    assert all(len(weights) == 8 for weights in points.values())
    # The mean of one expert is that expert: it is not tried twice.
    assert list(starting_points(1)) == ["seed", "uniform mean", "sum times 0.3", "sum times 0.6"]


@settings(max_examples=10, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32), num_trials=st.integers(8, 40), size=st.integers(1, 6))
def test_the_answer_is_the_best_of_all_trials_whatever_the_function(
    tmp_path_factory, seed, num_trials, size
):
    """A function of noise alone: no model of it is right, and some of it is not finite."""
    draw = np.random.default_rng(seed)
    seen = []

    def score(weights):
        if draw.random() < 0.1 and seen:
            seen.append(np.inf)
            raise ScoringError("not finite")
        seen.append(draw.normal())
        return {"github": seen[-1]}

    folder = tmp_path_factory.mktemp("search")
    best, trials = search(folder, score, num_models=size, num_trials=num_trials)
    assert len(seen) == len(trials) <= num_trials
    assert best.bits_per_byte == min(seen)
    assert [trial.bits_per_byte for trial in trials] == seen
    assert [trial.origin for trial in trials][:2] == ["seed", "uniform mean"]


def test_a_search_without_one_finite_model_is_refused(tmp_path):
    def score(weights):
        raise ScoringError("not finite")

    with pytest.raises(ScoringError, match="No model of the search gives finite"):
        search(tmp_path, score, num_models=2, num_trials=8)


class Killed(BaseException):
    """What stands for a kill: nothing in the search handles it."""


@pytest.mark.parametrize("after", [0, 3, 7, 15])
def test_a_search_that_was_killed_goes_on_with_the_same_bits(tmp_path, after):
    optimum = [0.1, 0.5, 0.3]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    search(tmp_path / "whole", bowl(optimum), num_models=3)
    count = itertools.count()
    score = bowl(optimum)

    def killing(weights):
        if next(count) == after:
            raise Killed
        return score(weights)

    with pytest.raises(Killed):
        search(tmp_path / "killed", killing, num_models=3)
    path = tmp_path / "killed" / "trials.jsonl"
    if after:
        assert len(read_trials(path)) == after
        # The kill came in the middle of a line.
        path.write_bytes(path.read_bytes() + b'{"number": 99, "orig')
    calls = []
    best, _ = search(tmp_path / "killed", lambda w: calls.append(w) or score(w), num_models=3)
    whole = (tmp_path / "whole" / "trials.jsonl").read_bytes()
    assert path.read_bytes() == whole
    assert len(calls) == len(whole.splitlines()) - after
    assert best.bits_per_byte == min(trial.bits_per_byte for trial in read_trials(path))


def test_a_finished_search_scores_nothing_again(tmp_path):
    first, trials = search(tmp_path, bowl([0.2, 0.4]), num_models=2)

    def refuse(weights):
        raise AssertionError("scored again")

    again, same = search(tmp_path, refuse, num_models=2)
    assert (again, same) == (first, trials)


def test_the_surrogate_of_a_quadratic_is_that_quadratic():
    """Twelve points, seven more than a quadratic in two coordinates has coefficients."""
    draw = np.random.default_rng(0)
    hessian = np.array([[3.0, 1.0], [1.0, 2.0]])
    minimum = np.array([0.3, -0.1])
    points = draw.uniform(-0.4, 0.6, (12, 2))
    values = np.array([1 + (p - minimum) @ hessian @ (p - minimum) / 2 for p in points])
    surrogate = fit_quadratic(points, values, center_N=points[np.argmin(values)], scale=0.2)
    for point in draw.uniform(-0.2, 0.5, (20, 2)):
        expected = 1 + (point - minimum) @ hessian @ (point - minimum) / 2
        assert surrogate(point) == pytest.approx(expected, abs=2e-3)
    found = surrogate.minimum_within(1.0, low=-0.5, high=1.5)
    np.testing.assert_allclose(found, minimum, atol=0.01)
    inside = surrogate.minimum_within(1.0, low=0.0, high=0.2)
    # By hand: with both bounds active the gradient at (0.2, 0) points out of the box.
    np.testing.assert_allclose(inside, [0.2, 0.0], atol=1e-6)


def test_a_trial_that_was_not_finite_is_a_null_in_the_file(tmp_path):
    calls = itertools.count()

    def score(weights):
        if next(calls) == 4:
            raise ScoringError("not finite")
        return {"github": float(weights.sum())}

    _, trials = search(tmp_path, score, num_models=2, num_trials=8)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert '"bits_per_byte": null' in lines[4]
    assert "Infinity" not in "".join(lines)
    assert trials[4].bits_per_byte == np.inf
