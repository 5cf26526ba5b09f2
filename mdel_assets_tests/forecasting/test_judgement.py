"""Forecasts judged on points whose law is known, and KALAVAI's law beside them."""

import dataclasses

import pytest

from mdel_assets.forecasting.judgement import (
    Agreement,
    Judgement,
    judge,
    judgement_markdown,
    kalavai,
    trust,
)
from mdel_assets.forecasting.model import MIN_POINTS, left_out
from mdel_assets_tests.forecasting.test_model import made_up


def with_experts(points, gain_of):
    """Points whose experts diverge twice as far as the probes and gain ``gain_of`` that."""
    return [
        dataclasses.replace(
            point,
            experts={
                "divergence": 2 * point.features["own_divergence"],
                "gain_over_best_expert": gain_of(2 * point.features["own_divergence"]),
            },
        )
        for point in points
    ]


def test_a_known_law_is_found_in_its_points():
    judgement = judge(made_up(40), ["ensemble", "mean", "mixture"])
    assert [line.what for line in judgement.lines] == ["gain of ensemble", "gain of mean"]
    for line in judgement.lines:
        assert line.num_points == 40
        assert line.rank_correlation > 0.99
    assert judgement.num_right >= 38
    # In every point either the ensemble gains, or the mean, whose gain is the same with a minus.
    assert set(judgement.best.values()) == {"apart", "merged"}


def test_errors_and_advice_are_those_of_points_that_were_left_out():
    points = made_up(20, noise=2.0)
    judgement = judge(points, ["ensemble"])
    predicted = left_out(points, "ensemble")
    measured = [p.gains["ensemble"] for p in points]
    errors = [abs(p - m) for p, m in zip(predicted, measured, strict=True)]
    assert judgement.lines[0].mean_error == pytest.approx(sum(errors) / 20)
    advised = ["apart" if p > 0 else "dense" for p in predicted]
    best = ["apart" if m > 0 else "dense" for m in measured]
    assert list(judgement.advised.values()) == advised
    assert judgement.num_right == sum(a == b for a, b in zip(advised, best, strict=True))
    assert judgement.most_frequent == max(best.count("apart"), best.count("dense"))


def test_the_law_of_kalavai_is_asked_of_probes_and_of_experts():
    assert kalavai(10.0) == pytest.approx(5.48)
    judgement = judge(with_experts(made_up(20), kalavai), ["ensemble"])
    over_best, by_experts = judgement.laws[0], judgement.laws[1]
    assert by_experts.what.endswith("over the best expert, by the law on the experts' divergence")
    assert by_experts.rank_correlation == pytest.approx(1.0)
    assert by_experts.mean_error == pytest.approx(0.0, abs=1e-12)
    # Half the divergence is in the same order, and 0.82 of it is missing.
    assert over_best.rank_correlation == pytest.approx(1.0)
    own = [p.features["own_divergence"] for p in made_up(20)]
    assert over_best.mean_error == pytest.approx(sum(abs(0.82 * d) for d in own) / 20)


def test_a_gain_that_is_the_same_everywhere_has_no_rank_correlation():
    points = [dataclasses.replace(p, gains={"ensemble": 1.0}) for p in made_up(20)]
    judgement = judge(points, ["ensemble"])
    assert judgement.lines[0].rank_correlation is None
    assert "unknown" in judgement_markdown(judgement)


def test_too_few_points_are_not_judged():
    assert judge(made_up(MIN_POINTS), ["ensemble"]) is None
    assert "Too few settings" in judgement_markdown(None)
    assert trust(None) == ""


def test_how_far_to_trust_a_forecast_is_said_with_its_figures():
    judgement = Judgement(
        lines=[
            Agreement("gain of ensemble", 17, -0.512, 0.471),
            Agreement("gain of mean", 9, None, 2),
        ],
        laws=[],
        advised={"a": "apart", "b": "apart", "c": "dense"},
        by_law={},
        best={"a": "apart", "b": "dense", "c": "dense"},
    )
    told = trust(judgement)
    assert "-0.51 for the ensemble (mean error 0.47 percentage points, 17 settings)" in told
    assert "unknown for the mean (mean error 2.00 percentage points, 9 settings)" in told
    assert "right in 2 of 3 settings; always saying the same would have been right in 2." in told
