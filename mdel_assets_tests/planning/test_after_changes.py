"""Plans after the experiment has changed: what was made before it changed has no say."""

import pytest

from mdel_assets.errors import TrainingError
from mdel_assets.line.making import make_one
from mdel_assets.training.prices import of_seed
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, pico_experiment


def pretrained(**changes):
    """Return the settings of a seed from scratch with other settings of its model."""
    pretrain = PICO["seed_model"]["pretrain"]
    return {"pretrain": {**pretrain, "model": pretrain["model"] | changes}}


def test_other_widths_of_the_seed_are_planned_though_the_old_one_is_there(corpus, branched):
    experiment, home = branched
    made = Sizes(home.lineage(experiment))
    assert made.seed_folder == home.lineage(experiment).folder("seed_model")
    assert made.model.hidden_size == 32
    wider = pretrained(hidden_size=64)
    sizes = Sizes(home.lineage(pico_experiment(corpus, seed_model=wider)))
    assert sizes.seed_folder is None
    assert sizes.model.hidden_size == 64
    # Two matrices of 320 words and 64 numbers, a norm, and three layers: attention (64 x 192 and
    # 64 x 64), a feed-forward (64 x 64 twice) and their biases, and two norms.
    layer = 64 * 192 + 192 + 64 * 64 + 64 + 2 * (64 * 64 + 64) + 2 * 2 * 64
    assert sizes.model.num_parameters == 2 * 320 * 64 + 2 * 64 + 3 * layer


def test_an_adopted_seed_has_the_sizes_of_the_folder_that_is_named_now(corpus, home, make_model):
    old = home.lineage(pico_experiment(corpus, seed_model={"path": str(make_model("llama"))}))
    make_one(old, "seed_model")
    assert Sizes(old).model.hidden_size == 32
    other = make_model("llama", hidden_size=64, dtype="bfloat16")
    sizes = Sizes(home.lineage(pico_experiment(corpus, seed_model={"path": str(other)})))
    assert sizes.seed_folder == other
    assert (sizes.model.hidden_size, sizes.bytes_per_parameter) == (64, 2.0)


def test_a_seed_that_cannot_be_reached_has_no_price_though_the_old_one_is_there(
    corpus, home, make_model, monkeypatch
):
    old = home.lineage(pico_experiment(corpus, seed_model={"path": str(make_model("llama"))}))
    make_one(old, "seed_model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sizes = Sizes(home.lineage(pico_experiment(corpus, seed_model={"path": "nobody/nothing"})))
    with pytest.raises(TrainingError, match="nobody/nothing are not known"):
        of_seed(sizes, "")
