"""The choice of the next token: temperature, nucleus and seed, by hand."""

import numpy as np
import pytest
import torch

from mdel_assets.errors import GenerationError
from mdel_assets.generation.sampling import Sampler

SHARES = [0.1, 0.5, 0.15, 0.25]


def log_p(shares):
    return torch.tensor(shares).log()


def frequencies(sampler, shares, *, num_draws=4000):
    chosen = [sampler.choose(log_p(shares)) for _ in range(num_draws)]
    return np.bincount(chosen, minlength=len(shares)) / num_draws


def test_temperature_zero_takes_the_likeliest_and_draws_nothing():
    sampler = Sampler(temperature=0.0, seed=1)
    assert [sampler.choose(log_p(SHARES)) for _ in range(5)] == [1] * 5


def test_draws_come_as_often_as_they_are_likely():
    # Three standard errors of 4,000 draws are below 0.024.
    np.testing.assert_allclose(frequencies(Sampler(seed=0), SHARES), SHARES, atol=0.024)


def test_a_temperature_raises_probabilities_to_its_inverse():
    squares = np.square(SHARES) / np.square(SHARES).sum()
    found = frequencies(Sampler(temperature=0.5, seed=0), SHARES)
    np.testing.assert_allclose(found, squares, atol=0.024)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.01, [1]), (0.49, [1]), (0.51, [1, 3]), (0.74, [1, 3]), (0.9, [1, 2, 3]), (1, [0, 1, 2, 3])],
)
def test_the_nucleus_is_the_fewest_of_the_likeliest_that_make_up_top_p(top_p, kept):
    shares = [1 / 16, 8 / 16, 3 / 16, 4 / 16]
    found = frequencies(Sampler(top_p=top_p, seed=0), shares)
    assert np.flatnonzero(found).tolist() == kept
    expected = np.array(shares)[kept] / np.array(shares)[kept].sum()
    np.testing.assert_allclose(found[kept], expected, atol=0.024)


def test_of_tokens_that_tie_for_the_nucleus_the_first_are_in_it():
    shares = [1 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 8]
    found = frequencies(Sampler(top_p=0.7, seed=0), shares)
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 4]


def test_a_seed_repeats_and_another_differs():
    draws = {
        seed: [sampler.choose(log_p(SHARES)) for _ in range(50)]
        for seed, sampler in ((seed, Sampler(seed=seed)) for seed in (0, 1))
    }
    again = Sampler(seed=0)
    assert [again.choose(log_p(SHARES)) for _ in range(50)] == draws[0]
    assert draws[0] != draws[1]


def test_the_last_digits_of_probabilities_change_no_draw():
    draw = np.random.default_rng(0)
    shares = draw.dirichlet(np.full(200, 0.5))
    noisy = shares * (1 + 1e-7 * draw.standard_normal(200))
    ours, theirs = Sampler(top_p=0.9, seed=3), Sampler(top_p=0.9, seed=3)
    assert [ours.choose(log_p(shares)) for _ in range(200)] == [
        theirs.choose(log_p(noisy)) for _ in range(200)
    ]


def test_impossible_tokens_are_never_drawn():
    shares = [0.0, 0.5, 0.0, 0.5, 0.0]
    assert set(np.flatnonzero(frequencies(Sampler(seed=0), shares))) == {1, 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, expected 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top-p is 0.0, expected more than 0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"top_p": float("nan")}, "top-p is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_their_range_are_refused(setting, message):
    with pytest.raises(GenerationError, match=message):
        Sampler(**setting)
