import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune as torch_prune
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from sparsity import masks
from sparsity.masks import prune, rank, sparsity_of


def brute_force(scores, num_removed):
    """Masks by a stable argsort of the concatenated scores: what the module's docstring promises."""
    flat = np.concatenate([np.asarray(s, dtype=np.float64).reshape(-1) for s in scores])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:num_removed]] = False
    ends = np.cumsum([np.asarray(s).size for s in scores])[:-1]
    return [part.reshape(np.shape(s)) for part, s in zip(np.split(kept, ends), scores, strict=True)]


def assert_same(result, expected):
    assert [mask.dtype for mask in result] == [torch.bool] * len(result)
    assert [mask.tolist() for mask in result] == [np.asarray(mask).tolist() for mask in expected]


def test_global_by_hand():
    a, b = torch.tensor([[0.5, 0.1], [0.9, 0.3]]), torch.tensor([0.2, 0.8])
    assert_same(prune([a, b], 0.5), [[[True, False], [True, False]], [False, True]])


def test_uniform_by_hand():
    a, b = torch.tensor([[0.5, 0.1], [0.9, 0.3]]), torch.tensor([20.0, 8.0])
    assert_same(prune([a, b], 0.5, "uniform"), [[[True, False], [True, False]], [True, False]])


def test_row_by_hand():
    a, b = torch.tensor([[5.0, 1.0, 3.0], [90.0, 30.0, 60.0]]), torch.tensor([2.0, 8.0])
    assert_same(prune([a, b], 1 / 3, "row"), [[[True, False, True], [True, False, True]], [False, True]])
    # 3 of 6 weights: one of each row, and the second one of the row where it has the lower score
    assert_same(prune([a, b], 0.5, "row"), [[[True, False, False], [True, False, True]], [False, True]])


@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.floats(0, 0.99),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_row_removes_the_lowest_of_each_row_and_the_exact_count(num_rows, num_columns, sparsity, num_values, seed):
    """Against a stable argsort of each row; few values, so that there are ties."""
    score = np.random.default_rng(seed).integers(0, num_values, (num_rows, num_columns)).astype(np.float32)
    (kept,) = (mask.numpy() for mask in prune([torch.from_numpy(score)], sparsity, "row"))
    order = np.argsort(score, axis=1, kind="stable")
    num_removed = round(sparsity * score.size)
    base, num_more = divmod(num_removed, num_rows)
    removed = np.full(num_rows, base)
    if num_more:
        following = np.take_along_axis(score, order, 1)[:, base]
        removed[np.argsort(following, kind="stable")[:num_more]] += 1
    expected = np.ones_like(kept)
    for row, num in enumerate(removed):
        expected[row, order[row, :num]] = False
    np.testing.assert_array_equal(kept, expected)


def test_row_of_a_convolution_is_an_output_channel_and_a_vector_is_one_row():
    score = torch.rand(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    conv, vector, number = prune([score, torch.arange(10.0), torch.tensor(1.0)], 0.5, "row")
    for row in range(6):
        assert_same([conv[row]], brute_force([score[row]], 18))
    assert_same([vector, number], [[False] * 5 + [True] * 5, True])


def test_a_higher_sparsity_of_rows_removes_more_of_the_same_weights():
    scores = [torch.rand(7, 9, generator=torch.Generator().manual_seed(0))]
    ranking = rank(scores, "row")
    masks_of = [ranking.masks(s / 63)[0] for s in range(63)]
    for s, (less, more) in enumerate(itertools.pairwise(masks_of)):
        assert int((~less).sum()) == s
        assert not (more & ~less).any()


def test_ties_are_removed_from_the_front():
    a, b = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([[1.0], [2.0]])
    assert_same(prune([a, b], 0.6), [[False, False, False], [[True], [True]]])
    assert_same(prune([a, b], 0.4), [[False, False, True], [[True], [True]]])


def test_n_of_m_by_hand():
    score = torch.tensor([[1.0, 4.0, 2.0, 3.0, 5.0, 5.0, 5.0, 5.0]])
    assert_same(prune([score], 0.5, "2:4"), [[[False, True, False, True, False, False, True, True]]])
    assert_same(prune([score], None, "1:2"), [[[False, True, False, True, False, True, False, True]]])
    assert_same(prune([score], 0.0, "4:4"), [[[True] * 8]])


def test_n_of_m_of_a_convolution_groups_the_input_channels_of_one_kernel_position():
    score = torch.rand(6, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    (mask,) = prune([score], None, "2:4")
    for row, kernel_row, kernel_column, group in itertools.product(range(6), range(3), range(3), range(2)):
        channels = slice(4 * group, 4 * group + 4)
        highest = score[row, channels, kernel_row, kernel_column].topk(2).indices
        kept = mask[row, channels, kernel_row, kernel_column].nonzero().squeeze(1)
        assert sorted(kept.tolist()) == sorted(highest.tolist())


@pytest.mark.parametrize("shape", [(64, 128), (64, 32, 3, 3)])
def test_two_of_four_survives_torchs_semi_structured_compression(shape):
    """torch's conversion stores half of the values and 2-bit indices; a convolution is the matrix of one position."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    (mask,) = prune([weight.abs()], 0.5, "2:4")
    pruned = (weight * mask).half()
    for matrix in [pruned] if pruned.dim() == 2 else pruned.permute(2, 3, 0, 1).reshape(-1, *shape[:2]):
        values, indices = sparse_semi_structured_from_dense_cutlass(matrix.contiguous())
        assert values.shape == (shape[0], shape[1] // 2)
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, indices), matrix)


def test_n_of_m_keeps_whole_what_m_does_not_divide():
    stem, bias, linear = torch.rand(8, 3, 4, 4), torch.rand(8), torch.rand(2, 8)
    kept = prune([stem, bias, linear], 0.5, "2:4")
    assert kept[0].all()
    assert kept[1].all()
    assert kept[2].sum() == 8


SCORES = st.lists(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.0, 2.0, math.inf]), min_size=1, max_size=9), min_size=1, max_size=4
)
LEVELS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4)


@given(SCORES, LEVELS, st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
@settings(max_examples=150, deadline=None)
def test_global_is_a_stable_argsort_at_every_level_of_one_sort(scores, levels, dtype):
    tensors = [torch.tensor(s, dtype=dtype) for s in scores]
    ranking = rank(tensors)
    n = sum(len(s) for s in scores)
    for level in levels:
        result = ranking.masks(level)
        assert_same(result, brute_force(scores, round(level * n)))
        assert sum(int((~mask).sum()) for mask in result) == round(level * n)


@given(SCORES, LEVELS)
@settings(max_examples=100, deadline=None)
def test_uniform_is_a_stable_argsort_of_each_tensor(scores, levels):
    ranking = rank([torch.tensor(s) for s in scores], "uniform")
    for level in levels:
        expected = [brute_force([s], round(level * len(s)))[0] for s in scores]
        assert_same(ranking.masks(level), expected)


@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_n_of_m_keeps_n_in_every_group(n, more, rows, groups, seed):
    m = n + more
    score = np.random.default_rng(seed).integers(0, 3, (rows, groups * m))
    (mask,) = prune([torch.tensor(score, dtype=torch.float32)], None, f"{n}:{m}")
    expected = [brute_force([group], m - n)[0] for group in score.reshape(-1, m)]
    assert mask.reshape(-1, m).tolist() == np.stack(expected).tolist()


@given(st.lists(st.integers(1, 4), max_size=4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_n_of_m_of_any_shape_is_brute_force_or_refuses_what_m_does_not_divide(shape, n, more, seed):
    m = n + more
    score = np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)  # ties, zeros, one element, no axis
    if len(shape) < 2 or shape[1] % m:
        with pytest.raises(ValueError, match=rf"^masks: scope {n}:{m} must fit at least one tensor \({m} must divide"):
            rank([torch.from_numpy(score)], f"{n}:{m}")
        return
    expected = np.ones(shape, bool)
    for index in np.ndindex(*shape[:1], *shape[2:]):
        for start in range(0, shape[1], m):
            place = (index[0], slice(start, start + m), *index[1:])
            expected[place] = brute_force([score[place]], m - n)[0]
    ranking = rank([torch.from_numpy(score)], f"{n}:{m}")
    for level in (None, 1 - n / m):
        assert_same(ranking.masks(level), [expected])


@given(SCORES, st.floats(0, 1, exclude_max=True), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_min_kept_in_uniform_scope_is_a_count_for_each_tensor(scores, level, min_kept):
    tensors = [torch.tensor(s) for s in scores]
    counts = [(round(level * len(s)), len(s) - min(min_kept, len(s))) for s in scores]  # to remove, free to remove
    if any(num_removed > num_free for num_removed, num_free in counts):
        with pytest.raises(ValueError, match=r"^masks: min_kept must leave"):
            prune(tensors, level, "uniform", min_kept=min_kept)
        return
    # within one tensor what is protected goes last anyway
    expected = [brute_force([s], num_removed)[0] for s, (num_removed, _) in zip(scores, counts, strict=True)]
    assert_same(prune(tensors, level, "uniform", min_kept=min_kept), expected)


@given(SCORES, st.floats(0, 1, exclude_max=True), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_min_kept_is_kept_and_the_count_stays_exact(scores, level, min_kept):
    tensors = [torch.tensor(s) for s in scores]
    n, num_protected = sum(len(s) for s in scores), sum(min(min_kept, len(s)) for s in scores)
    num_removed = round(level * n)
    if num_removed > n - num_protected:
        with pytest.raises(ValueError, match=r"^masks: min_kept must leave"):
            prune(tensors, level, min_kept=min_kept)
        return
    result = prune(tensors, level, min_kept=min_kept)
    assert sum(int((~mask).sum()) for mask in result) == num_removed
    assert all(int(mask.sum()) >= min(min_kept, mask.numel()) for mask in result)
    # of what is not protected, the lowest go first: the stable order without the protected positions
    protected = [brute_force([s], max(0, len(s) - min_kept))[0] for s in scores]
    free = np.flatnonzero(~np.concatenate(protected))
    flat = np.concatenate(scores)
    kept = np.ones(n, bool)
    kept[free[np.argsort(flat[free], kind="stable")[:num_removed]]] = False
    assert np.concatenate([mask.numpy() for mask in result]).tolist() == kept.tolist()


def test_min_kept_keeps_a_layer_that_would_vanish():
    small, large = torch.tensor([0.01, 0.03, 0.02]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert_same(prune([small, large], 4 / 7), [[False] * 3, [False, True, True, True]])
    assert_same(prune([small, large], 4 / 7, min_kept=1), [[False, True, False], [False, False, True, True]])


def test_min_kept_in_uniform_scope():
    assert_same(prune([torch.arange(4.0)], 0.5, "uniform", min_kept=2), [[False, False, True, True]])
    with pytest.raises(
        ValueError, match=r"^masks: min_kept must leave 2 of 2 weights to remove at 0.8, got 1 in each of 1"
    ):
        prune([torch.arange(4.0), torch.arange(2.0)], 0.8, "uniform", min_kept=1)


def test_counts_as_torch_prune_does():
    for n, level in [(5, 0.5), (7, 0.5), (10, 0.25), (100, 0.96), (3, 0.9)]:
        module = torch.nn.Linear(n, 1, bias=False)
        with torch.no_grad():
            module.weight.copy_(torch.randn(1, n, generator=torch.Generator().manual_seed(n)))
        (mask,) = prune([module.weight.detach().abs()], level)
        torch_prune.l1_unstructured(module, "weight", level)
        assert torch.equal(mask, module.weight_mask.bool())


def test_one_element_and_zero_dimensional_tensors():
    assert_same(prune([torch.tensor(1.0), torch.tensor([0.5])], 0.5), [True, [False]])
    assert_same(prune([torch.tensor([3.0])], 0.4), [[True]])


@pytest.mark.parametrize("scope", ["global", "uniform", "row"])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
def test_empty_tensors_have_empty_masks(scope, shape):
    empty, mask = prune([torch.ones(shape), torch.tensor([1.0, 2.0])], 0.5, scope)
    assert (empty.shape, empty.dtype) == (shape, torch.bool)
    assert mask.tolist() == [False, True]


def test_many_weights_with_many_ties():
    score = torch.randint(0, 50, (300, 400), generator=torch.Generator().manual_seed(0)).float()
    ranking = rank([score[:100], score[100:]])
    for level in (0.0, 0.1, 0.5, 0.96, 0.99999):
        expected = brute_force([score[:100], score[100:]], round(level * score.numel()))
        assert_same(ranking.masks(level), expected)


def test_levels_are_nested_and_masks_are_the_callers_own():
    score = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for scope, level in (("global", 0.5), ("2:4", None)):
        ranking = rank([score.reshape(10, 100)], scope)
        ranking.masks(level)[0].zero_()  # changes nobody else's
        assert ranking.masks(level)[0].sum() == 500
    ranking = rank([score])
    previous = ranking.masks(0.0)[0]
    for level in (0.2, 0.5, 0.9):
        mask = ranking.masks(level)[0]
        assert not (mask & ~previous).any()
        previous = mask


def test_scores_are_not_changed_and_may_have_a_graph_or_any_layout():
    score = torch.randn(4, 3, 2, 2, requires_grad=True)
    last = score.to(memory_format=torch.channels_last)
    before = score.detach().clone()
    assert torch.equal(prune([score], 0.5)[0], prune([last], 0.5)[0])
    assert torch.equal(prune([score], None, "1:3")[0], prune([last], None, "1:3")[0])
    assert torch.equal(score, before)


ONE = [torch.ones(2, 4)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prune([], 0.5), "masks: scores must hold at least one tensor, got none"),
        (lambda: prune(ONE, 1.0), "masks: sparsity must be in [0, 1), the fraction removed, got 1.0"),
        (lambda: prune(ONE, -0.1), "masks: sparsity must be in [0, 1), the fraction removed, got -0.1"),
        (lambda: prune(ONE, math.nan), "masks: sparsity must be in [0, 1), the fraction removed, got nan"),
        (lambda: prune(ONE, None), "masks: sparsity must be in [0, 1), the fraction removed, got None"),
        (
            lambda: prune([*ONE, torch.tensor([1.0, math.nan])], 0.5),
            "masks: scores must not be nan (they cannot be ranked), got nan in tensor 1",
        ),
        (
            lambda: prune(ONE, 0.5, "local"),
            "masks: scope must be one of global, uniform, row, n:m with 1 <= n <= m (such as 2:4), got 'local'",
        ),
        (
            lambda: prune(ONE, None, "4:2"),
            "masks: scope must be one of global, uniform, row, n:m with 1 <= n <= m (such as 2:4), got '4:2'",
        ),
        (lambda: prune(ONE, 0.6, "2:4"), "masks: sparsity must be 0.5 or None for scope 2:4, got 0.6"),
        (
            lambda: prune([torch.ones(2, 3, 4, 4), torch.ones(8)], None, "2:4"),
            "masks: scope 2:4 must fit at least one tensor (4 must divide its input channels, shape[1]), "
            "got shapes (2, 3, 4, 4), (8,)",
        ),
        (lambda: prune(ONE, 0.5, min_kept=-1), "masks: min_kept must be a whole number >= 0, got -1"),
        (lambda: prune(ONE, 0.5, min_kept=1.5), "masks: min_kept must be a whole number >= 0, got 1.5"),
        (
            lambda: prune(ONE, None, "2:4", min_kept=1),
            "masks: min_kept must be 0 for scope 2:4 (it fixes every count), got 1",
        ),
        (
            lambda: prune(ONE, 0.9, min_kept=2),
            "masks: min_kept must leave 7 of 8 weights to remove at 0.9, got 2 in each of 1 tensors, which leaves 6",
        ),
        (lambda: sparsity_of([]), "masks: tensors must have at least one element to have a sparsity, got none"),
    ],
)
def test_bad_input_gets_one_clear_line(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == message


def test_sparsity_of_counts_zeros():
    tensors = [torch.tensor([[0.0, 1.0], [-0.0, 2.0]]), torch.tensor([0, 0, 3]), torch.tensor(5.0)]
    assert sparsity_of(tensors) == 4 / 8
    assert sparsity_of(torch.zeros(3) for _ in range(2)) == 1.0
    masks_of_96 = masks.prune([torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1], 0.96)
    assert sparsity_of(masks_of_96) == 0.96
