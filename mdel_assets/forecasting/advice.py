"""The one sentence of a forecast: what to train, by the gains over `dense`.

There are three courses: keep experts apart and weigh their predictions (the ensemble), make one
model of them (the best of mean, search, other merge and mixture), or train one dense model, whose
gain over itself is zero. The course with the largest gain is advised.
"""

from collections.abc import Mapping

from mdel_assets.forecasting.model import Prediction

APART, MERGED, DENSE = "apart", "merged", "dense"
ENSEMBLE = "ensemble"
_SENTENCES = {
    APART: "Train experts and keep them apart",
    MERGED: "Train experts and merge them",
    DENSE: "Train one dense model",
}
UNKNOWN = (
    "No forecast: the map that ships with this version has too few settings to fit one on. Run "
    "more of it (mdel map), then mdel map --fit."
)


def course(gains: Mapping[str, float]) -> str:
    """Return the course with the largest gain; `dense` where nothing gains."""
    merged = [gain for name, gain in gains.items() if name != ENSEMBLE]
    best = {APART: gains.get(ENSEMBLE, -1.0), MERGED: max(merged, default=-1.0), DENSE: 0.0}
    return max(reversed(best), key=lambda name: best[name])


def advice(predictions: Mapping[str, Prediction]) -> str:
    """Return the sentence for predicted gains, and whether the interval is on its side."""
    if ENSEMBLE not in predictions:
        return UNKNOWN
    chosen = course({name: prediction.gain for name, prediction in predictions.items()})
    merged = {name: p for name, p in predictions.items() if name != ENSEMBLE}
    if chosen == MERGED:
        name = max(merged, key=lambda name: merged[name].gain)
    elif chosen == APART:
        name = ENSEMBLE
    else:
        name = max(predictions, key=lambda name: predictions[name].gain)
    found = predictions[name]
    is_sure = found.high < 0 if chosen == DENSE else found.low > 0
    told = f"{_SENTENCES[chosen]}: the {name} is forecast to gain {found.in_words} over `dense`"
    return f"{told}." if is_sure else f"{told}, which leaves it open."
