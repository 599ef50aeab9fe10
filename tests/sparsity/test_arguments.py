import math

import numpy as np
import pytest

from sparsity.arguments import whole_number


@pytest.mark.parametrize("value", [20, 20.0, np.int64(20), np.float32(20)])
def test_whole_numbers_of_any_type_become_an_int(value):
    number = whole_number("Method", "num_steps", value, 1)
    assert type(number) is int
    assert number == 20


@pytest.mark.parametrize("value", [0, -1, 1.5, math.inf, -math.inf, math.nan, "20", "many", None])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match=rf"^Method: num_steps must be a whole number >= 1, got {value!r}$"):
        whole_number("Method", "num_steps", value, 1)
