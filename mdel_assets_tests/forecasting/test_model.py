"""The line from features to gains: laws that are known, and what is advised."""

import numpy as np
import pytest

from mdel_assets.forecasting.advice import UNKNOWN, advice, course
from mdel_assets.forecasting.model import (
    MIN_POINTS,
    USED,
    Fitted,
    Point,
    Prediction,
    fit,
    fit_line,
    fitted_text,
    left_out,
)

LAW = {
    "own_divergence": 0.8,
    "other_divergence": -0.3,
    "cosine": -4.0,
    "line_whole": 0.5,
    "log_tokens_per_weight": 1.5,
    "log_num_domains": 0.2,
}


def made_up(count, *, noise=0.0, seed=3):
    """Points of the law, with normal noise of a known standard deviation."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        features = {name: float(draw.normal(2.0, 1.0)) for name in USED}
        gain = -2.0 + sum(LAW[name] * features[name] for name in USED)
        gains = {"ensemble": gain + noise * float(draw.normal()), "mean": -gain}
        found.append(Point(f"s{number}", features, gains))
    return found


def test_a_law_without_noise_is_recovered_by_points_that_are_left_out():
    points = made_up(20)
    predicted = left_out(points, "ensemble", ridge=0.0)
    assert predicted == pytest.approx([p.gains["ensemble"] for p in points], abs=1e-9)
    line = fit_line(points, "ensemble", ridge=0.0)
    assert line.weights == pytest.approx(LAW)
    assert line.constant == pytest.approx(-2.0)
    assert line.half_width == pytest.approx(0.0, abs=1e-8)


def test_the_ridge_orders_points_as_the_law_does():
    points = made_up(34)
    predicted = left_out(points, "ensemble")
    measured = [p.gains["ensemble"] for p in points]
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    assert np.corrcoef(*ranks)[0, 1] > 0.99


def test_a_point_that_is_left_out_has_no_part_in_its_prediction():
    points = made_up(14, noise=0.5)
    changed = [*points[:-1], Point("s13", points[-1].features, {"ensemble": 1e6})]
    one, other = (left_out(p, "ensemble")[-1] for p in (points, changed))
    assert one == other


def test_the_interval_holds_new_points_of_the_law_as_often_as_it_says():
    inside = []
    for seed in range(60):
        *points, new = made_up(35, noise=1.0, seed=seed)
        predicted = fit_line(points, "ensemble").predict(new.features)
        inside.append(predicted.low <= new.gains["ensemble"] <= predicted.high)
    # 95 % of 60 draws is 57; fewer than 52 has a probability of two in a thousand.
    assert sum(inside) >= 52


def test_a_contender_with_too_few_points_has_no_line():
    points = made_up(MIN_POINTS)
    lacking = [Point(p.setting, p.features, {"mean": p.gains["mean"]}) for p in points[:1]]
    fitted = fit("own", [*lacking, *points[1:]], ["ensemble", "mean", "mixture"])
    assert set(fitted.lines) == {"mean"}
    assert Fitted.parse(fitted.text()) == fitted
    assert set(fitted.predict(points[0].features)) == {"mean"}


def test_a_feature_that_is_the_same_everywhere_has_no_weight():
    points = made_up(20)
    same = [Point(p.setting, {**p.features, "cosine": 0.3}, p.gains) for p in points]
    assert fit_line(same, "ensemble").weights["cosine"] == 0.0


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ({"ensemble": 1.0, "mean": 0.5, "mixture": 0.9}, "apart"),
        ({"ensemble": 0.5, "mean": -3.0, "search": 0.6}, "merged"),
        ({"ensemble": -0.1, "mean": -3.0}, "dense"),
        ({"ensemble": 0.0}, "dense"),
    ],
)
def test_the_course_with_the_largest_gain_is_advised(gains, chosen):
    assert course(gains) == chosen


def test_the_sentence_says_what_to_train_and_whether_the_interval_agrees():
    sure = advice({"ensemble": Prediction(1.0, 0.5, 1.5), "mean": Prediction(-2.0, -3.0, -1.0)})
    assert sure == (
        "Train experts and keep them apart: the ensemble is forecast to gain "
        "+1.00 % [+0.50, +1.50] over `dense`."
    )
    open_ = advice({"ensemble": Prediction(-0.2, -0.7, 0.3)})
    assert open_.startswith("Train one dense model: the ensemble is forecast to gain -0.20 %")
    assert open_.endswith("which leaves it open.")
    assert advice({}) == UNKNOWN


def test_the_file_that_ships_is_what_its_own_points_give():
    fitted = Fitted.parse(fitted_text())
    again = fit(fitted.family, fitted.points, ["ensemble", "mean", "search", "mixture"])
    assert set(again.lines) == set(fitted.lines)
    for name, line in again.lines.items():
        assert line.weights == pytest.approx(fitted.lines[name].weights)
