"""Intervals over documents and trainings: by hand, and how often they hold a known truth."""

import math

import numpy as np
import pytest
import scipy.stats

from benchmarks.bench_coverage import coverage, figure_of, times_drawn
from mdel_assets.scoring.perplexity import bootstrap_bits_per_byte, interval
from mdel_assets.scoring.trainings import Figure, mean_of

T_OF_TWO, T_OF_MANY = 4.302653, 1.962342


def figure(values, draws, *, num_documents=1000):
    return Figure(np.array(values, float), np.array(draws, float), num_documents)


def same_draws(*, number, deviation, num_draws=1001):
    """Return draws that all trainings share, with this standard deviation exactly."""
    draws = np.random.default_rng(0).standard_normal(num_draws)
    draws = (draws - draws.mean()) / draws.std(ddof=1) * deviation
    return np.tile(draws, (number, 1))


@pytest.mark.parametrize("number", [3, 5])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_95_of_100_intervals_hold_the_truth_whatever_varies_most(number, ratio):
    found = coverage(number, ratio, num_trials=2500, num_draws=300, num_documents=120)
    # By chance alone a share of 95 % strays by 1.3 points once in 300 such simulations.
    assert 0.93 <= found.trainings <= 0.97


@pytest.mark.in_use
def test_the_interval_of_one_training_misses_what_another_training_would_change():
    found = coverage(3, 10.0, num_trials=500, num_draws=300, num_documents=120)
    assert found.documents_only < 0.6


def test_where_only_trainings_differ_it_is_the_interval_of_student():
    values = [1.0, 1.2, 1.7]
    # Draws that differ between trainings by a constant, and hardly over documents.
    draws = same_draws(number=3, deviation=1e-9) + np.array(values)[:, None]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / 3**0.5)
    assert figure(values, draws).bounds() == pytest.approx(expected, abs=1e-6)


def test_where_only_documents_differ_more_trainings_make_it_no_narrower():
    draws = same_draws(number=3, deviation=0.1)
    draws = draws + np.array([[1e-9], [0.0], [-1e-9]])
    low, high = figure([1.0, 1.0, 1.0], draws).bounds()
    assert (high - low) / 2 == pytest.approx(T_OF_MANY * 0.1, rel=1e-5)


def test_variances_add_and_the_critical_value_lies_between_those_of_both():
    # s^2 = 0.03, so that A = 0.01; the documents' variance is as large.
    values = np.array([-1.0, 0.0, 1.0]) * math.sqrt(0.03)
    draws = same_draws(number=3, deviation=0.1) + values[:, None]
    low, high = figure(values, draws).bounds()
    squared = T_OF_MANY**2 + (T_OF_TWO**2 - T_OF_MANY**2) / 4
    assert (high - low) / 2 == pytest.approx(math.sqrt(0.02 * squared), rel=1e-5)
    assert low == pytest.approx(-high)


def test_what_each_training_does_to_its_documents_is_not_counted_twice():
    # Draws of different trainings are independent: documents share nothing beyond the values.
    draws = np.random.default_rng(0).standard_normal((3, 200_000)) * 0.1
    low, high = figure([-0.1, 0.0, 0.1], draws).bounds()
    assert (high - low) / 2 == pytest.approx(T_OF_TWO * 0.1 / math.sqrt(3), rel=0.01)


def test_one_training_has_the_percentile_interval_of_its_documents():
    draws = np.random.default_rng(0).exponential(1.0, (1, 500))
    one = figure([1.0], draws)
    assert one.bounds() == interval(draws[0])
    # A model that is the same in all trainings: nothing was trained anew.
    same = figure([1.0] * 3, np.tile(draws, (3, 1)))
    assert same.bounds() == interval(draws[0])
    assert (one.num_trainings, same.num_trainings) == (1, 1)


def test_differences_pair_each_training_with_its_own_seed_and_documents():
    draws = np.random.default_rng(0).standard_normal((3, 400))
    seed = figure([2.0, 3.0, 4.0], 3 + draws)
    model = figure([1.9, 2.9, 3.9], 2.9 + draws)
    change = (model - seed).estimate()
    # Seeds differ by far more, and so do draws; the change is the same each time.
    assert (change.value, change.low, change.high) == pytest.approx((-0.1,) * 3)
    # A model that was trained once is compared with what it was trained from.
    assert (figure([1.5], draws[:1]) - seed).value == pytest.approx(-0.5)


def test_a_mean_over_domains_is_a_mean_of_each_training():
    a = figure([1.0, 2.0], [[1.0, 3.0], [2.0, 4.0]], num_documents=20)
    b = figure([3.0, 6.0], [[2.0, 2.0], [4.0, 4.0]], num_documents=20)
    mean = mean_of([a, b])
    assert mean.values_R.tolist() == [2.0, 4.0]
    assert mean.draws_RS.tolist() == [[1.5, 2.5], [3.0, 4.0]]
    assert mean.num_documents == 39


def test_the_simulation_draws_as_reports_do():
    size_D = np.array([10, 20, 30], np.int64)
    bits_RD = np.array([[1.0, 2.0, 3.0]])
    simulated = figure_of(bits_RD, size_D.astype(float), times_drawn(3, 60)).draws_RS[0]
    nll_D = bits_RD[0] * size_D * math.log(2)
    drawn = bootstrap_bits_per_byte(nll_D, size_D, num_samples=60, seed=0, name="simulated")
    assert simulated == pytest.approx(drawn)
