"""Prices of scores, against the windows that documents are cut into and against made models."""

import pytest

from mdel_assets.evaluation.judged_models import judged_model
from mdel_assets.evaluation.prices import evaluated, of_scores
from mdel_assets.scoring.windows import rolling_windows
from mdel_assets.training.model_sizes import ModelSizes, small_config
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, pico_experiment

SLICES = [
    {"sources": [{"model": "expert:github", "layer_range": [0, 3]}]},
    {"sources": [{"model": "expert:arxiv", "layer_range": [1, 3]}]},
]


@pytest.mark.parametrize(("max_length", "stride"), [(32, 8), (64, 16), (64, None)])
def test_a_stride_reads_more_after_the_first_window_alone(corpus, branched, max_length, stride):
    evaluation = PICO["evaluation"] | {"max_length": max_length, "stride": stride}
    sizes = Sizes(branched[1].lineage(pico_experiment(corpus, evaluation=evaluation)))
    amount = evaluated(sizes)
    price = of_scores(sizes, "seed")
    document = [1] * round(price.num_tokens / amount.num_documents)
    windows = list(rolling_windows(document, prefix=0, max_length=max_length, stride=stride))
    # The last window is moved to the left: what it reads again is not counted without a stride.
    moved = 0 if stride else len(windows) * max_length - len(document)
    read = amount.num_documents * (sum(len(window.inputs) for window in windows) - max(0, moved))
    length = min(max_length, len(document))
    judged = judged_model(sizes, "seed")
    forward = judged.forward(read, length=length, num_together=8)
    assert price.operations == pytest.approx(forward, rel=0.06)


def test_a_merge_of_slices_has_its_own_number_of_layers(corpus, branched):
    recipe = {"merge_method": "passthrough", "slices": SLICES}
    merges = {"stacked": recipe} | PICO["merges"]
    sizes = Sizes(branched[1].lineage(pico_experiment(corpus, merges=merges)))
    deep = ModelSizes(small_config(sizes.model.config, num_layers=5))
    judged = judged_model(sizes, "merged-stacked")
    assert judged.num_parameters == deep.num_parameters
    # It shares no layer with the models beside it.
    expected = deep.forward(1000, length=32)
    assert judged.forward(1000, length=32, num_together=8) == pytest.approx(expected)
    price = of_scores(sizes, "merged-stacked")
    assert price.operations == pytest.approx(deep.forward(price.num_tokens, length=32))
    mean = judged_model(sizes, "merged-mean-all")
    assert (mean.num_parameters, mean.num_shared) == (sizes.model.num_parameters, 1)
