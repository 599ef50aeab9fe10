import torch
from torch import Tensor

__all__ = ["lamp"]


def lamp(weights: list[Tensor]) -> list[Tensor]:
    """LAMP: score = w^2 / (sum of v^2 over the v in the same tensor with |v| >= |w|).

    The largest weight of each tensor has score 1, the highest there is. Global pruning therefore removes it last, and
    no tensor loses all its weights before every tensor is down to one. Within a tensor the order is that of the
    magnitudes, so scope "uniform" gives the masks of `magnitude`, rounding aside.

    On scikit-learn's digits, magnitude at sparsity 0.99 emptied 6 of 54 convolutions (9 in each of 6 networks trained
    with SAM) and LAMP none. The accuracy was no higher: 0.35 with LAMP, 0.39 with magnitude.

    Among weights of equal magnitude, the one at the earlier position has the larger sum and the lower score. It is
    removed first, as in `sparsity.masks`. In the paper, too, each weight's sum has only the weights that are removed
    after it.

    Args:
        weights: Tensors of any shape.

    Returns:
        New tensors of the same shapes, in [0, 1], of at least float32; 0 for zero weights.

    Reference:
        Lee, Park, Mo, Ahn & Shin, "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, arXiv
        2010.07611, equation 4.

    Cost:
        No backward pass, and a sort of each tensor. 1 x the weights of memory and, for one tensor at a time, 8 x the
        tensor (order in int64, sums in float64).
    """
    return [_scores(weight.detach()) for weight in weights]


def _scores(weight: Tensor) -> Tensor:
    magnitudes = weight.flatten().to(torch.promote_types(weight.dtype, torch.float32)).abs()
    if not magnitudes.numel():
        return magnitudes.view(weight.shape)
    magnitudes, order = magnitudes.sort(stable=True)
    largest = magnitudes[-1].clamp(min=torch.finfo(magnitudes.dtype).tiny)
    squares = (magnitudes / largest).double().square_()  # divided, so that squares do not underflow or overflow
    sums = squares.flip(0).cumsum_(0).flip(0)  # over the weight itself and those that are removed after it
    scores = squares.div_(sums.clamp_(min=torch.finfo(sums.dtype).tiny)).to(magnitudes.dtype)
    return torch.empty_like(scores).scatter_(0, order, scores).view(weight.shape)
