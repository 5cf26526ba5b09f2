"""Merge methods against mergekit 0.1.5, and against PEFT as a second opinion.

mergekit is licensed under the LGPL; it is called here, and nothing of it is copied.
"""

import mergekit.sparsify
import numpy as np
import pytest
import torch
from mergekit.merge_methods.api import merge_tensors as merge_with_mergekit

from mdel_assets.merge_methods.random_numbers import random_integers
from mdel_assets.merging.in_memory import merge_tensors

SHAPE = (64, 96)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def models(count, *, seed=0, spread=0.01, dtype=torch.float32):
    """A base and experts of it, as large as a model's weights are."""
    torch.manual_seed(seed)
    base = torch.randn(SHAPE) * 0.02
    experts = [(base + torch.randn(SHAPE) * spread).to(dtype) for _ in range(count)]
    return base.to(dtype), experts


def peer(method, tensors, *, base=None, **parameters):
    group = tensors if base is None else [base, *tensors]
    index = None if base is None else 0
    return merge_with_mergekit(group, method, base_index=index, parameters=parameters)


def ulps(found, expected, *operands):
    """Return the largest difference, in units in the last place of the largest operand."""
    size = torch.stack([tensor.float().abs() for tensor in operands]).amax(dim=0)
    unit = torch.finfo(found.dtype).eps * torch.exp2(torch.floor(torch.log2(size)))
    return float(((found.double() - expected.double()).abs() / unit.double()).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 22])
@pytest.mark.parametrize("normalize", [True, False])
def test_linear_is_mergekits_to_the_bit(dtype, count, normalize):
    _, experts = models(count, dtype=dtype)
    options = {"weight": np.random.default_rng(count).random(count).tolist()}
    options["normalize"] = normalize
    ours = merge_tensors("linear", experts, **options).to(dtype)
    assert torch.equal(ours, peer("linear", experts, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 15])
@pytest.mark.parametrize(("method", "density"), [("task_arithmetic", None), ("ties", 0.3)])
def test_sums_of_task_vectors_are_mergekits_to_the_bit_in_fp32(dtype, count, method, density):
    base, experts = models(count, dtype=dtype)
    options = {"weight": np.random.default_rng(count).random(count).tolist(), "lambda": 0.7}
    if density:
        options["density"] = density
    for normalize in (True, False):
        options["normalize"] = normalize
        ours = merge_tensors(method, experts, base=base, **options)
        work = [tensor.float() for tensor in experts]
        theirs = peer(method, work, base=base.float(), **options)
        if dtype == torch.float32 or not density:
            assert torch.equal(ours, theirs)
        else:
            # In halves many numbers equal the threshold: mergekit keeps some of them, we all.
            at_threshold = torch.zeros(SHAPE, dtype=torch.bool)
            for tensor in work:
                delta = (tensor - base.float()).abs()
                rank = delta.numel() - max(1, int(density * delta.numel()))
                at_threshold |= delta == delta.flatten().sort().values[rank]
            assert torch.equal(ours[~at_threshold], theirs[~at_threshold])
            assert int(at_threshold.sum()) < 0.1 * ours.numel() * count


def test_sums_of_many_task_vectors_are_mergekits_but_for_the_order_of_additions():
    """From 16 models on mergekit sums in groups of 16."""
    base, experts = models(22)
    ours = merge_tensors("task_arithmetic", experts, base=base, weight=0.1)
    theirs = peer("task_arithmetic", experts, base=base, weight=0.1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["breadcrumbs", "ties"])
@pytest.mark.parametrize("rescale", [False, True])
def test_thinned_task_vectors_are_mergekits(method, rescale):
    base, experts = models(3)
    options = {"weight": [0.2, 0.5, 0.9], "density": 0.6, "rescale": rescale}
    if method == "breadcrumbs":
        options["gamma"] = 0.05
    ours = merge_tensors(method, experts, base=base, **options)
    theirs = peer(method, experts, base=base, **options)
    if rescale:  # mergekit sums in fp32, we in fp64
        assert ulps(ours, theirs, base, *experts) <= 4
    else:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("method", "normalize"), [("dare_linear", False), ("dare_ties", True)])
def test_dare_with_our_mask_is_mergekits_to_the_bit(method, normalize, monkeypatch):
    base, experts = models(3)
    masks = iter(
        torch.from_numpy(
            random_integers(0, base.numel(), seed=5, model=str(model), tensor="w")
            < round(0.4 * 2**24)
        )
        for model in range(3)
    )
    monkeypatch.setattr(
        mergekit.sparsify.torch, "bernoulli", lambda p: next(masks).reshape(p.shape).to(p.dtype)
    )
    options = {"weight": [0.2, 0.5, 0.9], "density": 0.4, "normalize": normalize, "rescale": False}
    theirs = peer(method, experts, base=base, **options)
    ours = merge_tensors(method, experts, base=base, name="w", seed=5, **options)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della"])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_random_methods_keep_the_share_that_was_asked_for(method, density):
    base, (expert,) = torch.zeros(400, 500), [torch.ones(400, 500)]
    options = {"density": density, "rescale": False}
    if method == "della":
        options["epsilon"] = 0.1
    kept = float(merge_tensors(method, [expert], base=base, **options).sum())
    sigma = (base.numel() * density * (1 - density)) ** 0.5
    assert abs(kept - density * base.numel()) < 4 * sigma
    rescaled = merge_tensors(method, [expert], base=base, **options | {"rescale": True})
    assert float(rescaled.double().sum()) == pytest.approx(base.numel(), rel=1e-5)


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slerp_is_mergekits_within_one_unit_in_the_last_place(spread, t, dtype):
    """In fp32 mergekit's angle is rounded: there the oracle is mergekit in fp64."""
    base, (expert,) = models(1, spread=spread, dtype=dtype)
    ours = merge_tensors("slerp", [expert], base=base, t=t).to(dtype)
    if dtype == torch.float32:
        theirs = peer("slerp", [expert.double()], base=base.double(), t=t)
    else:
        theirs = peer("slerp", [expert], base=base, t=t)
    assert ulps(ours, theirs, base, expert) <= 1


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.05])
@pytest.mark.parametrize(
    ("method", "with_base", "count", "options"),
    [
        ("nuslerp", False, 2, {"weight": [0.3, 0.9]}),
        ("nuslerp", True, 2, {"weight": [0.3, 0.9]}),
        ("nuslerp", True, 2, {"weight": [0.3, 0.9], "nuslerp_flatten": False}),
        ("multislerp", False, 4, {"weight": [0.3, 0.9, 0.5, 0.1]}),
        ("multislerp", True, 4, {"weight": [0.3, 0.9, 0.5, 0.1]}),
        ("karcher", False, 4, {}),
        ("model_stock", True, 4, {}),
        ("model_stock", True, 4, {"filter_wise": True}),
        ("sce", True, 4, {}),
        ("sce", True, 4, {"select_topk": 0.3}),
        ("nearswap", True, 1, {"t": 0.005}),
        ("passthrough", False, 1, {"scale": 0.3}),
    ],
)
def test_other_methods_are_mergekits_in_fp64(method, with_base, count, options, spread):
    base, experts = models(count, spread=spread)
    ours = merge_tensors(method, experts, base=base if with_base else None, **options)
    doubles = [tensor.double() for tensor in experts]
    theirs = peer(method, doubles, base=base.double() if with_base else None, **options)
    assert ulps(ours, theirs, base, *experts) <= 4


def test_peft_agrees_on_task_arithmetic_and_ties():
    from peft.utils.merge_utils import task_arithmetic, ties

    base, experts = models(3)
    deltas = [expert - base for expert in experts]
    weights = [0.2, 0.5, 0.9]
    theirs = base + task_arithmetic(deltas, torch.tensor(weights))
    ours = merge_tensors("task_arithmetic", experts, base=base, weight=weights)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    # PEFT elects signs before it weighs, and its mean counts heads: equal weights compare.
    theirs = base + ties(deltas, torch.ones(3), density=0.5)
    ours = merge_tensors("ties", experts, base=base, weight=1.0, density=0.5)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
