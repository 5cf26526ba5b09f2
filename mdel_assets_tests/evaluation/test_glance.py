"""The experiment at a glance: gains by hand, their order, and what each costs to run."""

import pytest

from mdel_assets.evaluation.glance import glance, glance_figure
from mdel_assets_tests.evaluation.test_matrix import make_matrix

# Documents of ten bytes with their bits per byte, of two domains.
USES = {
    "seed": {"a": [2.0, 4.0], "b": [1.0] * 8},
    "dense": {"a": [1.5, 3.5], "b": [0.9] * 8},
    "dense-one": {"a": [1.9, 3.9], "b": [1.0] * 8},
    "expert-a": {"a": [1.0, 3.0], "b": [2.0] * 8},
    "merged-mean": {"a": [2.0, 4.0], "b": [1.2] * 8},
    "merged-other": {"a": [2.0, 4.0], "b": [1.0] * 8},
    "ensemble-posterior-all": {"a": [1.0, 3.0], "b": [0.8] * 8},
    "ensemble-linear-top1": {"a": [1.2, 3.2], "b": [0.8] * 8},
}


def test_bars_are_gains_on_the_seed_the_largest_first_with_their_price(tmp_path):
    bars = glance(make_matrix(tmp_path, USES), num_experts=6, merged={"merged-mean": "averaged"})
    assert [bar.model for bar in bars] == [
        "ensemble-posterior-all",
        "ensemble-linear-top1",
        "dense",
        "dense-one",
        "merged-mean",
    ]
    gains = {bar.model: bar.gain for bar in bars}
    # Means of two domains: a gains 1.0, b 0.2.
    assert gains["ensemble-posterior-all"] == pytest.approx(0.6)
    assert gains["dense"] == pytest.approx(0.3)
    assert gains["merged-mean"] == pytest.approx(-0.1)
    assert {bar.model: bar.num_models_run for bar in bars} == {
        "ensemble-posterior-all": 6,
        "ensemble-linear-top1": 1,
        "dense": 1,
        "dense-one": 1,
        "merged-mean": 1,
    }
    # Every document of a domain gains as much: nothing varies.
    assert [bar.low for bar in bars] == pytest.approx(list(gains.values()))
    assert [bar.high for bar in bars] == pytest.approx(list(gains.values()))


def test_the_picture_says_the_price_of_each_bar(tmp_path):
    bars = glance(make_matrix(tmp_path, USES), num_experts=6, merged={"merged-mean": "averaged"})
    (axes,) = glance_figure(bars, split="validation_domain", text="20 documents, 200 bytes").axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "6 domain experts together\n(6 models run per token)"
    assert labels[-1] == "averaged\n(1 model runs per token)"
    assert [text.get_text() for text in axes.texts] == [f"{bar.gain:+.3f}" for bar in bars]
