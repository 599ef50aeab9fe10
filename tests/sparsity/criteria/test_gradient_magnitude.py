import pytest
import torch

from sparsity.criteria.gradient_magnitude import gradient_magnitude


def test_matches_hand_computation():
    (score,) = gradient_magnitude([torch.tensor([2.0, -3.0, 0.0])], gradients=[torch.tensor([-5.0, 0.5, 9.0])])
    assert score.tolist() == [10.0, 1.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_half_precision_are_float32(dtype):
    """2^-24 is the least positive number of float16."""
    w, g = torch.tensor([2.0**-7, 2.0**-7, 2.0**9], dtype=dtype), torch.tensor([2.0**-20, -(2.0**-18), 2.0**9])
    (score,) = gradient_magnitude([w], gradients=[g.to(dtype)])
    assert score.tolist() == [2.0**-27, 2.0**-25, 2.0**18]


@pytest.mark.parametrize(
    ("gradients", "got"),
    [
        ([None, torch.ones(3)], r"got None for weight 0 of shape \(2, 2\)"),
        ([torch.ones(2, 2), torch.ones(1)], r"got shape \(1,\) for weight 1 of shape \(3,\)"),
        ([torch.ones(2, 2)], "got 1 gradients for 2 weights"),
    ],
)
def test_a_missing_or_misshapen_gradient_is_named(gradients, got):
    with pytest.raises(
        ValueError, match=rf"^gradient_magnitude: gradients must be one tensor for each weight, .*{got}$"
    ):
        gradient_magnitude([torch.ones(2, 2), torch.ones(3)], gradients=gradients)
