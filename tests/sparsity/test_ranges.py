import inspect
import math

import pytest

import sparsity
from sparsity.ranges import Range

REGULARIZERS = [name for name in sparsity.names("regularizers") if name != "none"]
OPTIMIZERS = sparsity.names("optimizers")


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_has_a_range_of_lam(name):
    assert isinstance(sparsity.load("regularizers", name).lam_range, Range)


def test_without_a_regularizer_lam_has_no_range():
    assert sparsity.load("regularizers", "none").lam_range is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ranges_of_an_optimizer_are_of_its_arguments(name):
    """Its ranges contain each default that a search would change, and rho always has one."""
    cls = sparsity.load("optimizers", name)
    parameters = inspect.signature(cls).parameters
    ranges = getattr(cls, "ranges", {})
    assert all(isinstance(value, Range) for value in ranges.values())
    assert ranges.keys() <= parameters.keys()
    assert "rho" in ranges or "rho" not in parameters
    for argument, found in ranges.items():
        assert found.low <= parameters[argument].default <= found.high


def test_a_range_is_a_frozen_value():
    assert Range(0.02, 0.5, 0.1) == Range(low=0.02, high=0.5, initial=0.1, log=True)
    with pytest.raises(AttributeError):
        Range(0.02, 0.5, 0.1).low = 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1, 1.5), "low and high must be finite with low <= high, got 2 and 1"),
        ((1, math.inf, 2), "low and high must be finite with low <= high, got 1 and inf"),
        ((math.nan, 1, 1), "low and high must be finite with low <= high, got nan and 1"),
        ((1, 2, 3), r"initial must be in \[1, 2\], got 3"),
        ((1, 2, math.nan), r"initial must be in \[1, 2\], got nan"),
        ((0, 1, 0.5), r"low must be > 0 with log=True \(or pass log=False\), got 0"),
    ],
)
def test_refuses_an_impossible_range(arguments, message):
    with pytest.raises(ValueError, match=rf"^Range: {message}$"):
        Range(*arguments)


def test_a_linear_range_may_start_at_zero():
    assert Range(0, 1, 0.5, log=False).low == 0
