import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity import masks
from sparsity.optimizers import _magnitude_masks
from sparsity.optimizers._magnitude_masks import keep_largest, parse_scope

# few different magnitudes: many ties; zeros; one-element tensors
TENSORS = st.lists(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0]), min_size=1, max_size=9), min_size=1, max_size=4
)


def assert_equal(a, b):
    assert all(x.dtype is torch.bool and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(TENSORS, st.floats(0, 1, exclude_max=True), st.sampled_from(["global", "uniform"]))
@settings(max_examples=150, deadline=None)
def test_masks_are_those_of_prune_including_ties(values, sparsity, scope):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weights = [torch.tensor(v, dtype=dtype) for v in values]
        assert_equal(keep_largest(weights, scope, sparsity), masks.prune([w.abs() for w in weights], sparsity, scope))


def test_n_of_m_goes_by_magnitude():
    w = torch.tensor([[-4.0, 1.0, -2.0, 3.0, 0.0, -1.0, 1.0, 0.0]])
    assert keep_largest([w], "2:4")[0].int().tolist() == [[1, 0, 0, 1, 0, 1, 1, 0]]


def test_input_channels_that_m_does_not_divide_are_kept_whole():
    w, v = torch.randn(4, 3, 3, 3), torch.randn(2, 8)
    kept = keep_largest([w, v], "2:4")
    assert kept[0].all()
    assert kept[1].sum() == 8


@pytest.mark.parametrize("scope", ["global", "uniform", "2:4"])
def test_memory_format_changes_nothing(scope):
    w = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    last = w.to(memory_format=torch.channels_last)
    assert_equal(keep_largest([w], scope, 0.7), keep_largest([last], scope, 0.7))


@given(TENSORS, st.floats(0, 1, exclude_max=True))
@settings(max_examples=50, deadline=None)
def test_the_implementation_for_accelerators_gives_the_same(values, sparsity):
    """Selection by topk, and ties by counting: neither NumPy nor a value on the host."""
    flat = torch.tensor([abs(x) for v in values for x in v])
    for k in range(1, len(flat) + 1):
        expected = flat.sort().values[k - 1]
        assert _magnitude_masks._kth_smallest(flat, k) == expected
        assert _magnitude_masks._kth_smallest_on_device(flat, k) == expected
    k = round(sparsity * len(flat))
    if k:
        threshold = flat.sort().values[k - 1]
        kept, tied = flat > threshold, flat == threshold
        kept = kept | _magnitude_masks._last(tied, len(flat) - k - kept.sum())
        assert torch.equal(kept, keep_largest([flat], "global", sparsity)[0])


def test_parse_scope():
    assert parse_scope("global") == parse_scope("uniform") == []
    assert parse_scope("2:4") == [(2, 4)]
    assert parse_scope("2:4, 4:8") == [(2, 4), (4, 8)]
    for scope in ("", "local", "4:2", "2:4,", "2:4,9:8", "0:4", "2"):
        with pytest.raises(ValueError, match=rf"^scope must be global, uniform, or n:m with n <= m .*, got '{scope}'$"):
            parse_scope(scope)
