from torch import Tensor

__all__ = ["magnitude"]


def magnitude(weights: list[Tensor]) -> list[Tensor]:
    """score = |w|, in units of w: small weights go first.

    Source: Han, Pool, Tran & Dally, "Learning both weights and connections", NeurIPS 2015, section 3.
    weights: tensors of any shape. Returns new tensors of the same shapes, types and devices, without a graph.
    Cost: no backward pass; the scores, 1 x the weights.
    """
    return [weight.detach().abs() for weight in weights]
