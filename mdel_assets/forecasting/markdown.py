"""A forecast in Markdown: the sentence, the predicted gains, and what the probes measured."""

from collections.abc import Mapping

from mdel_assets.forecasting.advice import advice
from mdel_assets.forecasting.features import Probes
from mdel_assets.forecasting.model import Prediction
from mdel_assets.scoring.markdown_table import as_markdown

_HOW = """Gains are in percent of the bits per byte of `dense`, one model that reads as much as all
experts together; they are predicted by a line that was fitted on the settings of `mdel map`."""


def forecast_markdown(probes: Probes, predictions: Mapping[str, Prediction], *, trust: str) -> str:
    """Return the page, the sentence first; ``trust`` says how right such forecasts were."""
    parts = [f"**{advice(predictions)}**", ""]
    if predictions:
        rows = [["", "gain over `dense`", "95 % interval"]]
        rows += [
            [name, f"{p.gain:+.2f} %", f"{p.low:+.2f} to {p.high:+.2f} %"]
            for name, p in predictions.items()
        ]
        parts += [
            _HOW,
            "",
            *as_markdown(rows),
            "",
            trust,
            "",
        ]
    cost = (
        f"{len(probes.probe_losses)} probes read {probes.num_tokens:,} tokens in up to "
        f"{probes.num_steps} steps each: {probes.cost:.1%} of what all experts would read."
    )
    parts += [
        cost,
        "",
        *as_markdown([["feature", "value"], *_features(probes)]),
        "",
        "By how many percent each probe's loss is below the seed's, by the domain of the text:",
        "",
        *as_markdown(_falls(probes)),
        "",
    ]
    return "\n".join(parts)


def _features(probes: Probes) -> list[list[str]]:
    return [[name.replace("_", " "), f"{v:.4g}"] for name, v in probes.features().items()]


def _falls(probes: Probes) -> list[list[str]]:
    texts = list(probes.seed_losses)
    rows = [["", *texts]]
    models = {
        **{f"probe of {name}": own for name, own in probes.probe_losses.items()},
        "halfway to their mean": probes.half_losses,
        "their mean": probes.whole_losses,
    }
    for name, losses in models.items():
        falls = [100 * (1 - losses[text] / probes.seed_losses[text]) for text in texts]
        rows.append([name, *(f"{fall:+.2f}" for fall in falls)])
    return rows
