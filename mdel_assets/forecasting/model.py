"""The model that turns features of probes into a gain: a line fitted on the points of a map.

The gain of a contender over `dense`, in percent, is a weighted sum of the features `USED`, which
were chosen before a map was measured. Features are standardized (less their mean, over their
standard deviation) and the weights are fitted by ridge regression: squared errors plus `RIDGE`
times the squares of the weights, the constant term left out.

The 95 % interval is the prediction plus and minus the root mean square of the errors on points that
were left out, one at a time, times the critical value of Student's t.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

USED = (
    "own_divergence",
    "other_divergence",
    "cosine",
    "line_whole",
    "log_tokens_per_weight",
    "log_num_domains",
)
RIDGE = 1.0
# Twice as many as there are features, besides the constant: with fewer no line is fitted.
MIN_POINTS = 2 * len(USED)
FITTED_NAME = "fitted.json"
_UPPER = 0.975


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of a map: the features of its probes, and the gain of each contender there.

    ``experts`` are figures of the whole experts, which a forecast cannot know: their
    ``divergence``, and the ``gain_over_best_expert`` of the ensemble, both in percent.
    """

    setting: str
    features: Mapping[str, float]
    gains: Mapping[str, float]
    experts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted gain over `dense` in percent, with its 95 % interval."""

    gain: float
    low: float
    high: float

    @property
    def in_words(self) -> str:
        """The gain with its interval, as text."""
        return f"{self.gain:+.2f} % [{self.low:+.2f}, {self.high:+.2f}]"


@dataclasses.dataclass(frozen=True)
class Line:
    """A fitted line: the gain is ``constant`` plus the sum of ``weights`` times features.

    ``half_width`` is that of the interval.
    """

    constant: float
    weights: Mapping[str, float]
    half_width: float
    num_points: int

    def gain(self, features: Mapping[str, float]) -> float:
        """Return the predicted gain in percent."""
        return self.constant + sum(w * features[name] for name, w in self.weights.items())

    def predict(self, features: Mapping[str, float]) -> Prediction:
        """Return the predicted gain with its interval."""
        gain = self.gain(features)
        return Prediction(gain, gain - self.half_width, gain + self.half_width)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The lines by contender, of those with enough points, and all points that they are of."""

    family: str
    lines: Mapping[str, Line]
    points: Sequence[Point]

    def predict(self, features: Mapping[str, float]) -> dict[str, Prediction]:
        """Return the predicted gain of every contender that has a line."""
        return {name: line.predict(features) for name, line in self.lines.items()}

    def text(self) -> str:
        """Return the file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `text` wrote."""
        content = json.loads(text)
        lines = {name: Line(**line) for name, line in content["lines"].items()}
        return cls(content["family"], lines, [Point(**point) for point in content["points"]])


def fitted_text() -> str:
    """Return the text of the file that ships with the package."""
    return resources.files("mdel_assets.forecasting").joinpath(FITTED_NAME).read_text("utf-8")


def fit(family: str, points: Sequence[Point], contenders: Sequence[str]) -> Fitted:
    """Return the lines of those ``contenders`` that enough ``points`` have a gain of."""
    lines = {
        name: fit_line(own, name)
        for name in contenders
        if len(own := with_gain(points, name)) >= MIN_POINTS
    }
    return Fitted(family, lines, list(points))


def with_gain(points: Sequence[Point], contender: str) -> list[Point]:
    """Return the points that have a gain of ``contender``."""
    return [point for point in points if contender in point.gains]


def fit_line(points: Sequence[Point], contender: str, *, ridge: float = RIDGE) -> Line:
    """Return the line through ``points``, all with a gain of ``contender``, and its interval."""
    from scipy.special import stdtrit

    constant, weights = _solve(points, contender, ridge=ridge)
    errors = left_out(points, contender, ridge=ridge) - _gains(points, contender)
    freedom = max(1, len(points) - len(USED) - 1)
    half = float(stdtrit(freedom, _UPPER)) * math.sqrt(float(np.mean(errors**2)))
    return Line(constant, dict(zip(USED, weights, strict=True)), half, len(points))


def left_out(
    points: Sequence[Point], contender: str, *, ridge: float = RIDGE
) -> NDArray[np.float64]:
    """Return the gain of each point, predicted by the line through all the others."""
    found = []
    for place, point in enumerate(points):
        others = [other for number, other in enumerate(points) if number != place]
        constant, weights = _solve(others, contender, ridge=ridge)
        found.append(
            constant + sum(w * point.features[n] for w, n in zip(weights, USED, strict=True))
        )
    return np.array(found)


def _solve(points: Sequence[Point], contender: str, *, ridge: float) -> tuple[float, list[float]]:
    """Return the constant, and the weight of each feature as it is measured."""
    x_PF = np.array([[point.features[name] for name in USED] for point in points])
    y_P = _gains(points, contender)
    mean_F, scale_F = x_PF.mean(axis=0), x_PF.std(axis=0)
    # A feature that is the same everywhere tells nothing.
    is_told = scale_F > 1e-12 * np.maximum(1.0, np.abs(mean_F))
    z_PF = np.where(is_told, (x_PF - mean_F) / np.where(is_told, scale_F, 1.0), 0.0)
    square_FF = z_PF.T @ z_PF + (ridge * np.eye(len(USED)) if ridge else 0.0)
    standard_F = np.linalg.lstsq(square_FF, z_PF.T @ (y_P - y_P.mean()), rcond=None)[0]
    weights_F = np.where(is_told, standard_F / np.where(is_told, scale_F, 1.0), 0.0)
    return float(y_P.mean() - weights_F @ mean_F), [float(w) for w in weights_F]


def _gains(points: Sequence[Point], contender: str) -> NDArray[np.float64]:
    return np.array([point.gains[contender] for point in points], np.float64)


def predictions_of(details: Mapping[str, Any]) -> dict[str, Prediction]:
    """Return the predictions that a record's details have."""
    return {name: Prediction(**found) for name, found in details["predictions"].items()}


def as_json(predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """Return predictions as a record has them."""
    return {name: dataclasses.asdict(prediction) for name, prediction in predictions.items()}
