"""A training step's operations, against those that torch's own counter sees in a real step."""

import pytest

from mdel_assets.experiment.adapters import Adapter

SETTINGS = {
    "gpt_neox": {"num_attention_heads": 4},
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_head": 4},
}
VOCABULARY, LENGTH, NUM_ROWS, NUM_LAYERS = 500, 96, 3, 4


def configuration(model_type):
    from mdel_assets.training.model_sizes import pretrained_config

    settings = {
        "model_type": model_type,
        "hidden_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "max_position_embeddings": 128,
        **SETTINGS[model_type],
    }
    if model_type != "gpt2":
        settings["intermediate_size"] = 160
    return pretrained_config(settings, vocab_size=VOCABULARY)


def operations_counted(config, trained_layers, adapter=None):
    """Return what the counter sees in a forward and a backward pass of the loss that trains."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from mdel_assets.training.adapters import Adapted
    from mdel_assets.training.fused_loss import LanguageModelLoss
    from mdel_assets.training.layers import freeze_all_but, resolve_parts

    # The counter has no formula for the processor's fused attention.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if adapter:
        prefixes = resolve_parts(model, trained_layers).prefixes
        Adapted.of(model, prefixes, adapter).put_into(model, seed=0)
    elif trained_layers is not None:
        freeze_all_but(model, resolve_parts(model, trained_layers).prefixes)
    loss = LanguageModelLoss(model.train())
    ids_BT = torch.randint(VOCABULARY, (NUM_ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        loss(ids_BT)["loss"].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("model_type", "trained_layers"),
    [
        ("gpt_neox", None),
        ("gpt_neox", "all"),
        ("gpt_neox", (2, 3)),
        ("gpt_neox", (1, "2.mlp", "head")),
        ("llama", None),
        ("llama", (2,)),
        ("gpt2", "all"),
    ],
)
def test_operations_of_a_step_are_those_that_torch_counts(model_type, trained_layers):
    from mdel_assets.training.model_sizes import ModelSizes

    config = configuration(model_type)
    model = ModelSizes(config)
    found = model.step(NUM_ROWS, length=LENGTH, trained=model.trained(trained_layers))
    assert found == pytest.approx(operations_counted(config, trained_layers), rel=0.02)


@pytest.mark.parametrize("model_type", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("trained_layers", ["all", (2, "3.mlp")])
def test_operations_of_a_step_with_adapters_are_those_that_torch_counts(model_type, trained_layers):
    from mdel_assets.training.model_sizes import ModelSizes

    # A rank as large as this makes adapters a fifth of the operations.
    config, adapter = configuration(model_type), Adapter(rank=24)
    model = ModelSizes(config)
    trained = model.trained(trained_layers, adapter)
    found = model.step(NUM_ROWS, length=LENGTH, trained=trained)
    counted = operations_counted(config, trained_layers, adapter)
    # The first products of the first layer need no gradient of their inputs, but are counted so.
    assert counted <= found <= 1.06 * counted
    assert 6 * NUM_ROWS * LENGTH * trained.num_trained > 0.07 * found


def test_layers_below_the_first_trained_one_cost_their_forward_pass_alone():
    from mdel_assets.training.model_sizes import ModelSizes

    model = ModelSizes(configuration("gpt_neox"))
    upper = model.step(NUM_ROWS, length=LENGTH, trained=model.trained((2, 3)))
    every = model.step(NUM_ROWS, length=LENGTH, trained=model.trained("all"))
    below = model.below(NUM_ROWS * LENGTH, length=LENGTH, first=2)
    # Backward through layers costs twice their forward pass.
    assert every - upper == pytest.approx(2 * below)


def test_saved_bytes_grow_with_the_block():
    from mdel_assets.training.model_sizes import ModelSizes

    model = ModelSizes(configuration("llama"))
    short, long = model.saved_bytes_per_layer(32), model.saved_bytes_per_layer(64)
    # Residual stream, norms, three projections and two of the feed-forward at the least.
    assert short > 32 * 4 * (5 * 64 + 3 * 160)
    assert long == pytest.approx(2 * short, rel=0.1)


def test_a_model_that_is_stored_in_half_precision_is_measured_in_that_of_its_training():
    from mdel_assets.training.model_sizes import ModelSizes, random_model

    plain, halved = configuration("gpt_neox"), configuration("gpt_neox")
    halved.dtype = "float16"
    assert {str(tensor.dtype) for tensor in random_model(halved).parameters()} == {"torch.float32"}
    kept = [ModelSizes(config).saved_bytes_per_layer(64) for config in (plain, halved)]
    assert kept[0] == kept[1]


def test_a_layer_runs_once_for_each_length():
    from torch.nn.modules.module import register_module_forward_pre_hook

    from mdel_assets.training.model_sizes import ModelSizes

    model = ModelSizes(configuration("llama"))
    run = []
    hook = register_module_forward_pre_hook(lambda module, _: run.append(module))
    try:
        first = model.saved_bytes_per_layer(LENGTH)
        count = len(run)
        assert count > 0
        assert model.saved_bytes_per_layer(LENGTH) == first
        assert len(run) == count
        assert model.saved_bytes_per_layer(2 * LENGTH) > first
        assert len(run) == 2 * count
    finally:
        hook.remove()
