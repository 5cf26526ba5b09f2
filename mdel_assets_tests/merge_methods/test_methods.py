"""Every merge method on tensors of four numbers, worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mdel_assets.errors import MergeError, UnknownKeyError
from mdel_assets.merge_methods import METHODS
from mdel_assets.merge_methods.della import keep_probabilities
from mdel_assets.merge_methods.order_statistics import nth_smallest
from mdel_assets.merge_methods.random_numbers import random_integers
from mdel_assets.merging.in_memory import merge_tensors

ONE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
TWO = torch.tensor([[5.0, 6.0], [7.0, 12.0]])
ZERO = torch.zeros(2, 2)


def check(method, tensors, expected, **options):
    merged = merge_tensors(method, tensors, **options)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_linear_is_the_weighted_mean():
    check("linear", [ONE, TWO], [[3.0, 4.0], [5.0, 8.0]])
    check("linear", [ONE, TWO], [[2.0, 3.0], [4.0, 6.0]], weight=[3.0, 1.0])
    summed = [[-3.0, -2.0], [-1.0, -4.0]]
    check("linear", [ONE, TWO], summed, weight=[2.0, -1.0], normalize=False)


def test_halves_are_added_in_fp32():
    """In fp16, 2048 + 1 is 2048; in fp32 it is not, and half of it is 1024.5."""
    halves = [torch.tensor([2048.0]).half(), torch.tensor([1.0]).half()]
    assert merge_tensors("linear", halves).item() == 1024.5


def test_task_arithmetic_adds_weighted_differences_to_the_base():
    # Differences from ONE: TWO gives 4 4 4 8, ZERO gives -1 -2 -3 -4.
    options = {"base": ONE, "weight": [0.5, 1.0]}
    check("task_arithmetic", [TWO, ZERO], [[2.0, 2.0], [2.0, 4.0]], **options)
    scaled = [[1.0 + 2 / 3, 2.0], [3.0 - 2 / 3, 4.0]]
    check("task_arithmetic", [TWO, ZERO], scaled, normalize=True, **options | {"lambda": 1.0})
    check("task_arithmetic", [TWO, ZERO], [[3.0, 2.0], [1.0, 4.0]], **options | {"lambda": 2.0})


def test_slerp_walks_the_arc_between_base_and_model():
    # Orthogonal and of equal length: half way, both weigh sin 45 / sin 90.
    start, end = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    half = math.sqrt(2)
    check("slerp", [end], [[half, half], [0.0, 0.0]], base=start, t=0.5)
    third = [[2 * math.cos(math.pi / 6), 1.0], [0.0, 0.0]]
    check("slerp", [end], third, base=start, t=1 / 3)
    # Parallel, and a zero tensor: straight.
    check("slerp", [2 * ONE], [[1.5, 3.0], [4.5, 6.0]], base=ONE, t=0.5)
    check("slerp", [-ONE], [[0.5, 1.0], [1.5, 2.0]], base=ONE, t=0.25)


def test_nuslerp_turns_weights_into_a_place_on_the_arc():
    start, end = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    third = [[2 * math.cos(math.pi / 6), 1.0], [0.0, 0.0]]
    check("nuslerp", [start, end], third, weight=[2.0, 1.0])
    based = [[2 * math.cos(math.pi / 6) + 1.0, 3.0], [3.0, 4.0]]
    check("nuslerp", [start + ONE, end + ONE], based, weight=[2.0, 1.0], base=ONE)
    # Row by row: the first rows are orthogonal, the second parallel.
    first, second = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    rows = [[math.sqrt(2), math.sqrt(2)], [2.0, 0.0]]
    check("nuslerp", [first, second], rows, weight=1.0, nuslerp_flatten=False)


def test_multislerp_has_the_mean_direction_and_the_mean_length():
    first, second = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    # Directions average to 45 degrees, lengths to 3.
    side = 3 / math.sqrt(2)
    check("multislerp", [first, second], [[side, side], [0.0, 0.0]])
    check("multislerp", [first], first.tolist())
    # Opposite: nothing but a straight line is left.
    check("multislerp", [ONE, -3 * ONE], (-ONE).tolist())
    with pytest.raises(MergeError, match="mean direction is zero"):
        turned = [torch.tensor([[math.cos(a), math.sin(a)]]) for a in (0, 2 * math.pi / 3)]
        merge_tensors("multislerp", [*turned, -(turned[0] + turned[1])])


def test_karcher_is_the_middle_of_the_arcs():
    # At 0, 30 and 90 degrees on a circle the mean angle is 40; lengths 1, 2, 3 average to 2.
    vectors = [
        length * torch.tensor([[math.cos(angle), math.sin(angle)], [0.0, 0.0]])
        for length, angle in ((1, 0.0), (2, math.pi / 6), (3, math.pi / 2))
    ]
    angle = math.radians(40)
    middle = [[2 * math.cos(angle), 2 * math.sin(angle)], [0.0, 0.0]]
    check("karcher", vectors, middle, max_iter=50, tol=1e-9)
    check("karcher", [ONE, ZERO], (ONE / 2).tolist())
    check("karcher", [ZERO, ZERO], ZERO.tolist())


def test_ties_trims_elects_and_averages():
    # Task vectors 4 -1 2 0 and -2 -3 1 1; the larger halves are 4 . 2 . and -2 -3 . . ;
    # the sums 2 -3 2 0 elect + - + +; means of what agrees: 4 -3 2 0.
    first = ONE + torch.tensor([[4.0, -1.0], [2.0, 0.0]])
    second = ONE + torch.tensor([[-2.0, -3.0], [1.0, 1.0]])
    options = {"base": ONE, "density": 0.5}
    check("ties", [first, second], [[5.0, -1.0], [5.0, 4.0]], **options)
    # Untrimmed, the second pair agrees (mean -2), the third too (1.5), and of the fourth 1 is left.
    check("ties", [first, second], [[5.0, 0.0], [4.5, 5.0]], base=ONE)
    check("ties", [first, second], ONE.tolist(), base=ONE, density=0.0)
    # Rescaled, the first's 6 stands for 7, the second's 5 for 7.
    rescaled = [[1 + 4 * 7 / 6, 2 - 3 * 7 / 5], [3 + 2 * 7 / 6, 4.0]]
    check("ties", [first, second], rescaled, rescale=True, **options)


def test_ties_keeps_all_numbers_at_the_threshold():
    tied = torch.tensor([[2.0, -2.0], [2.0, 1.0]])
    check("ties", [tied], [[2.0, -2.0], [2.0, 0.0]], base=ZERO, density=0.25)


def test_breadcrumbs_drops_the_largest_and_the_smallest():
    # Of 5 -1 2 -3 a quarter, the 5, is an outlier; half are kept: 2 and -3.
    delta = torch.tensor([[5.0, -1.0], [2.0, -3.0]])
    kept = [[1.0, 2.0], [5.0, 1.0]]
    check("breadcrumbs", [ONE + delta], kept, base=ONE, density=0.5, gamma=0.25)
    doubled = [[1.0, 2.0], [3.0 + 2 * 11 / 5, 4.0 - 3 * 11 / 5]]
    options = {"density": 0.5, "gamma": 0.25, "rescale": True}
    check("breadcrumbs", [ONE + delta], doubled, base=ONE, **options)
    check("breadcrumbs", [ONE + delta], ONE.tolist(), base=ONE, density=0.1)
    check("breadcrumbs", [ONE + delta], (ONE + delta).tolist(), base=ONE)


def kept_by_chance(count, *, density, model="0"):
    draws = random_integers(0, count, seed=3, model=model, tensor="tensor")
    return torch.from_numpy(draws < round(density * 2**24)).reshape(2, -1)


def test_dare_linear_drops_at_random_and_rescales():
    mask = kept_by_chance(4, density=0.5)
    delta = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    kept = delta * mask
    assert 0 < int(mask.sum()) < 4
    options = {"base": ONE, "density": 0.5, "seed": 3}
    check("dare_linear", [ONE + delta], (ONE + kept).tolist(), rescale=False, **options)
    doubled = (ONE + 2 * kept).tolist()
    check("dare_linear", [ONE + delta], doubled, rescale_by="density", **options)
    same_size = (ONE + kept * (10 / kept.abs().sum())).tolist()
    check("dare_linear", [ONE + delta], same_size, **options)


def test_dare_ties_elects_signs_among_what_is_kept():
    masks = [kept_by_chance(4, density=0.6, model=model) for model in "01"]
    deltas = [torch.tensor([[1.0, -2.0], [3.0, -4.0]]), torch.tensor([[-3.0, -1.0], [1.0, 5.0]])]
    kept = [delta * mask for delta, mask in zip(deltas, masks, strict=True)]
    total = kept[0] + kept[1]
    elected = [
        [
            sum(float(k[i, j]) for k in kept if (float(k[i, j]) >= 0) == (float(total[i, j]) >= 0))
            for j in range(2)
        ]
        for i in range(2)
    ]
    expected = (ONE + torch.tensor(elected)).tolist()
    models = [ONE + delta for delta in deltas]
    check("dare_ties", models, expected, base=ONE, density=0.6, seed=3, rescale=False)


def test_della_keeps_large_numbers_more_often():
    probabilities = keep_probabilities(
        torch.tensor([[0.1, -5.0, 2.0], [3.0, 2.0, 1.0]]), density=0.5, epsilon=0.2
    )
    torch.testing.assert_close(probabilities, torch.tensor([[0.3, 0.7, 0.5], [0.7, 0.5, 0.3]]))
    draws = random_integers(0, 4, seed=0, model="0", tensor="tensor") / 2**24
    delta = torch.tensor([[1.0, -2.0], [-4.0, 3.0]])
    chances = np.array([0.3, 0.7, 0.7, 0.3])
    kept = delta * torch.from_numpy((draws < chances).reshape(2, 2))
    options = {"base": ONE, "density": 0.5, "epsilon": 0.2}
    check("della", [ONE + delta], (ONE + kept).tolist(), rescale=False, **options)
    with pytest.raises(MergeError, match="plus and minus epsilon"):
        merge_tensors("della", [TWO], base=ONE, density=0.9, epsilon=0.2)


def test_model_stock_goes_as_far_as_the_task_vectors_agree():
    # Task vectors (2, 0, 0, 0) and (2, 2, 0, 0): cosine 1 / sqrt 2.
    first = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[2.0, 2.0], [0.0, 0.0]])
    cos = 1 / math.sqrt(2)
    ratio = 2 * cos / (1 + cos)
    moved = (ONE + ratio * torch.tensor([[2.0, 1.0], [0.0, 0.0]])).tolist()
    check("model_stock", [ONE + first, ONE + second], moved, base=ONE)
    # Opposite task vectors: the base stays.
    check("model_stock", [ONE + first, ONE - first], ONE.tolist(), base=ONE)
    # By rows: the first as above, the second parallel.
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    expected = ONE + torch.tensor([[2 * ratio, ratio], [2.0, 2.0]])
    models = [ONE + first + rows, ONE + second + 3 * rows]
    check("model_stock", models, expected.tolist(), base=ONE, filter_wise=True)


def test_sce_selects_weighs_and_erases():
    # Task vectors 4 1 0 0 and -2 1 2 0: variances 9 0 1 0; half of the two that vary: the first.
    first = torch.tensor([[4.0, 1.0], [0.0, 0.0]])
    second = torch.tensor([[-2.0, 1.0], [2.0, 0.0]])
    models = [ONE + first, ONE + second]
    check("sce", models, [[5.0, 2.0], [3.0, 4.0]], base=ONE, select_topk=0.5)
    # All: mean squares 17 and 9 of 4; the first element keeps 4, the third 2, the second both.
    check("sce", models, [[5.0, 3.0], [5.0, 4.0]], base=ONE)
    check("sce", models, ONE.tolist(), base=ONE, select_topk=0.0)


def test_nearswap_goes_to_what_is_near():
    # Differences 1, 2, 4 and 8, at most 2 of the way: all, all, a half, a quarter.
    other = ONE + torch.tensor([[1.0, -2.0], [4.0, -8.0]])
    check("nearswap", [other], [[2.0, 0.0], [5.0, 2.0]], base=ONE, t=2.0)


def test_passthrough_scales_one_model():
    check("passthrough", [ONE], ONE.tolist())
    check("passthrough", [ONE], [[0.5, 1.0], [1.5, 2.0]], scale=0.5)


def test_every_method_was_worked_out_by_hand():
    source = Path(__file__).read_text("utf-8")
    assert [name for name in METHODS if f'check("{name}"' not in source] == []


def test_unknown_names_and_values_out_of_bounds_are_refused():
    with pytest.raises(UnknownKeyError, match="Did you mean 'ties'"):
        merge_tensors("tis", [ONE], base=ONE)
    with pytest.raises(UnknownKeyError, match="Did you mean 'density'"):
        merge_tensors("ties", [ONE], base=ONE, densty=0.5)
    with pytest.raises(MergeError, match="'density' is 1\\.5, expected 0 to 1"):
        merge_tensors("ties", [ONE], base=ONE, density=1.5)
    with pytest.raises(MergeError, match="sum to zero"):
        merge_tensors("multislerp", [ONE, TWO], weight=[1.0, -1.0])


@pytest.mark.parametrize("piece", [1, 7, 64, 10_000])
def test_order_statistics_are_those_of_a_sort(piece):
    torch.manual_seed(0)
    numbers = [torch.randn(999).abs(), (torch.randn(999) * 1e-40).abs(), torch.ones(999)]
    numbers[0][::3] = numbers[0][1]
    ranks = [[0, 333, 334, 998], [5, 500], []]

    def pieces():
        for first in range(0, 999, piece):
            yield [stream[first : first + piece] for stream in numbers]

    found = nth_smallest(pieces, ranks)
    for stream, wanted, of_rank in zip(numbers, ranks, found, strict=True):
        assert of_rank == {rank: float(stream.sort().values[rank]) for rank in wanted}


def test_random_numbers_belong_to_their_place():
    place = {"seed": 1, "model": "expert-a", "tensor": "w"}
    whole = random_integers(0, 200_000, **place)
    for first, count in ((0, 1), (65_535, 2), (100_000, 70_000)):
        assert (random_integers(first, count, **place) == whole[first : first + count]).all()
    for change in ({"seed": 2}, {"model": "expert-b"}, {"tensor": "v"}):
        other = random_integers(0, 1000, **place | change)
        assert (other == whole[:1000]).sum() < 5
    # Uniform: each sixteenth holds its share within four sigma.
    counts = np.bincount(whole >> 20, minlength=16)
    assert (np.abs(counts - 12_500) < 4 * math.sqrt(200_000 / 16 * 15 / 16)).all()
