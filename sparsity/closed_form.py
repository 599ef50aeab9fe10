"""Base class of regularizers whose value and gradient are known formulas.

It is several times faster than autograd on the formula: no graph, and fewer passes over memory. Penalties that have a
compiled kernel too (`_kernels.py`) are more than ten times faster on a CPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsity import _kernels
from sparsity.regularizer import Regularizer

__all__ = ["ClosedForm"]

BLOCK = 2**18  # elements: float32 temporaries of 1 MiB stay in a CPU's cache between the operations of a formula


class ClosedForm(Regularizer):
    """A penalty with a closed-form gradient.

    The gradient is elementwise in w once some statistics of the tensor are known. A subclass defines the penalty twice.
    `formula` is the definition, in plain PyTorch; tests compare everything else with it. The other methods compute the
    same, faster (n is the number of elements of the tensor, and each statistic is a scalar tensor):

        formula(w)                    the penalty of one tensor, a scalar
        statistics(w)                 (s1, s2, ...) of a tensor, or of a block of it
        merge(n, s1, s2, ...)         the statistics of a tensor from those of its blocks, all vectors; by default sums
        value(n, s1, s2, ...)         the penalty from the statistics
        gradient(scale, n, s1, ...)   a function w -> scale * dR/dw of a tensor or of a block; scale is the incoming
                                      gradient (lam), best multiplied into a scalar factor

    `statistics` and `gradient` consist of differentiable operations, so that second derivatives (create_graph=True) are
    autograd's. Penalties of half-precision weights are computed in float32; the gradient has the weight's own type.

    Attributes:
        kernel: Name of the function in `_kernels.c` that computes the same penalty, and its arguments; () if there is
            none. It is used for float32 weights on a CPU. `backward` then needs neither a graph nor extra memory.
    """

    kernel: tuple = ()

    formula: Callable[[Tensor], Tensor]
    statistics: Callable[[Tensor], tuple[Tensor, ...]]
    value: Callable[..., Tensor]
    gradient: Callable[..., Callable[[Tensor], Tensor]]

    def merge(self, n: Tensor, *statistics: Tensor) -> tuple[Tensor, ...]:
        return tuple(s.sum() for s in statistics)

    def penalty(self, weight: Tensor) -> Tensor:
        return _Penalty.apply(weight, self)

    def backward(self, lam: float) -> Tensor:
        if not (self.kernel and self.weights and all(_kernel_can_add(weight) for weight in self.weights)):
            return super().backward(lam)
        for weight in self.weights:
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        name, *arguments = self.kernel
        gradients = [weight.grad if weight.requires_grad else None for weight in self.weights]
        return torch.tensor(_kernels.penalty(name, arguments, self.weights, gradients, lam=lam), dtype=torch.float32)


class _Penalty(torch.autograd.Function):
    """The penalty of one weight by the methods of a `ClosedForm`.

    Nothing here waits for the device.
    """

    @staticmethod
    def forward(ctx, weight, method):
        ctx.method = method
        if method.kernel and _kernels.takes(weight):
            ctx.save_for_backward(weight)
            name, *arguments = method.kernel
            return weight.new_tensor(_kernels.penalty(name, arguments, [weight], [None]))
        statistics = [method.statistics(_full(block)) for block in _blocks(weight)]
        if len(statistics) > 1:
            sizes = statistics[0][0].new_tensor([block.numel() for block in _blocks(weight)])
            total = method.merge(sizes, *map(torch.stack, zip(*statistics, strict=True)))
        else:
            total = statistics[0]
        ctx.save_for_backward(weight, *total)
        return method.value(weight.numel(), *total)

    @staticmethod
    def backward(ctx, scale):
        weight, *statistics = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: differentiate the statistics too
            statistics = ctx.method.statistics(_full(weight))
            return ctx.method.gradient(scale, weight.numel(), *statistics)(_full(weight)).to(weight.dtype), None
        if not statistics:  # the forward pass used the kernel
            grad = torch.empty_like(weight)
            name, *arguments = ctx.method.kernel
            _kernels.penalty(name, arguments, [weight], [grad], lam=scale.item(), overwrite=True)
            return grad, None
        gradient = ctx.method.gradient(scale, weight.numel(), *statistics)
        blocks = _blocks(weight)
        if len(blocks) == 1:
            return gradient(_full(weight)).to(weight.dtype), None
        grad = torch.empty_like(weight)
        for block, out in zip(blocks, _blocks(grad), strict=True):
            out.copy_(gradient(_full(block)))
        return grad, None


def _kernel_can_add(weight: Tensor) -> bool:
    """Whether a kernel can add this weight's gradient to `weight.grad`.

    It cannot where autograd would do more, such as call a hook.
    """
    grad = weight.grad if weight.is_leaf else None
    return (
        weight.is_leaf
        and not weight._backward_hooks
        and not weight._post_accumulate_grad_hooks
        and _kernels.takes(weight)
        and (grad is None or (grad.dtype is weight.dtype and grad.is_cpu and grad.stride() == weight.stride()))
    )


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Split a tensor along its first dimension into cache-sized blocks.

    On other devices than a CPU there is a single block.
    """
    if not tensor.is_cpu or tensor.numel() <= BLOCK:
        return (tensor,)
    return tensor.split(max(1, BLOCK * tensor.shape[0] // tensor.numel()))


def _full(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, which the sums need."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
