import numpy as np
import pytest
import torch

from sparsity import masks
from sparsity.criteria.lamp import lamp


def by_numpy(weight):
    """Equation 4, with the weights ordered by magnitude: each weight's sum is over itself and those after it."""
    flat = weight.double().flatten().numpy()
    order = np.argsort(np.abs(flat), kind="stable")
    scores = np.zeros_like(flat)
    for position, index in enumerate(order):
        if flat[index]:
            scores[index] = flat[index] ** 2 / sum(flat[other] ** 2 for other in order[position:])
    return scores.reshape(weight.shape)


def test_matches_hand_computation():
    (scores,) = lamp([torch.tensor([[1.0, -3.0], [0.0, 2.0]])])
    torch.testing.assert_close(scores, torch.tensor([[1 / 14, 1.0], [0.0, 4 / 13]]))


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 2, 2), (7,), ()])
def test_matches_the_equation(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    (scores,) = lamp([weight])
    np.testing.assert_allclose(scores.numpy(), by_numpy(weight), rtol=1e-6)


def test_of_equal_magnitudes_the_first_has_the_lowest_score():
    weight = torch.tensor([2.0, -2.0, 1.0, 2.0])
    (scores,) = lamp([weight])
    torch.testing.assert_close(scores, torch.tensor([4 / 12, 4 / 8, 1 / 13, 1.0]))
    np.testing.assert_allclose(scores.numpy(), by_numpy(weight), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scores_do_not_depend_on_the_scale_of_a_tensor(scale):
    """Squares of these weights underflow or overflow in float32."""
    weight = torch.randn(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lamp([weight * scale])[0], lamp([weight])[0], rtol=1e-5, atol=0)


def test_large_tensors_keep_the_order_of_their_magnitudes():
    """A running sum of a million squares in float32 would round differences of the scores away."""
    weight = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) + 0.5
    (scores,) = lamp([weight])
    in_order = scores[weight.argsort(stable=True)].double()
    assert (in_order.diff() >= 0).all()
    assert scores.sum().item() == pytest.approx(float(by_numpy_fast(weight).sum()), rel=1e-5)


def by_numpy_fast(weight):
    squares = np.sort(weight.double().numpy()) ** 2
    return squares / np.cumsum(squares[::-1])[::-1]


def test_no_tensor_is_emptied_before_all_have_one_weight_left():
    """Layers of very different scale: magnitude empties two of them, LAMP none, even with one weight left in each."""
    generator = torch.Generator().manual_seed(0)
    weights = [scale * torch.randn(50, generator=generator) for scale in (1e-3, 1.0, 1e3)]
    by_magnitude = masks.prune([weight.abs() for weight in weights], 0.9)
    assert [int(mask.sum()) for mask in by_magnitude] == [0, 0, 15]
    assert all(mask.any() for mask in masks.prune(lamp(weights), 0.9))
    assert [int(mask.sum()) for mask in masks.prune(lamp(weights), 0.98)] == [1, 1, 1]
