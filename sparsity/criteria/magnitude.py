from torch import Tensor

__all__ = ["magnitude"]


def magnitude(weights: list[Tensor]) -> list[Tensor]:
    """Magnitude: score = |w|, so small weights are removed first.

    Args:
        weights: Tensors of any shape.

    Returns:
        New tensors of the same shapes, types and devices, in units of w.

    Reference:
        Han, Pool, Tran & Dally, "Learning both weights and connections for efficient neural networks", NeurIPS 2015,
        section 3.

    Cost:
        No backward pass. 1 x the weights of memory.
    """
    return [weight.detach().abs() for weight in weights]
