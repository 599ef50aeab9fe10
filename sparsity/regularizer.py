"""What every regularizer shares: it holds weights, and sums one penalty per tensor.

`Regularizer` needs `penalty(weight)`, in plain PyTorch. `ClosedForm` needs the value and the gradient as formulas, and
is several times faster: no graph, and no pass over memory that the formulas do not ask for; with a compiled kernel
(`_native.py`) ten times and more. Gates on the weights: `_gated.py`.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sparsity.regularizers import _native

__all__ = ["ClosedForm", "Regularizer"]

BLOCK = 2**18  # elements: float32 temporaries of 1 MiB stay in a CPU's cache between the operations of a formula


class Regularizer(torch.nn.Module):
    """R(W): one term `penalty(weight)` per weight tensor, summed over tensors; unscaled, so the loss adds `lam * R()`.

    weights: floating-point tensors of any shape with at least one element; the caller leaves out biases and norm
    scales. They are held, not registered: `parameters()`, `state_dict()` and `to()` are for gates that a subclass owns.
    An empty list is fine (a model without such weights): R() is then 0.
    A training loop calls the hooks `attach`, `take_decay`, `project` and `fold`; here they do nothing. What it trains
    is, after `attach`, each parameter once, of the model and of R, since gates can be reached from both:
        trained = list(dict.fromkeys(p for p in (*model.parameters(), *R.parameters()) if p.requires_grad))
    A checkpoint holds the state_dict of both.
    ValueError if weights is one tensor, or holds anything else than floating-point tensors with elements.
    """

    gate_lr: float | None = None  # of a regularizer with gates, see `_gated.py`

    def __init__(self, weights: Iterable[Tensor]):
        super().__init__()
        if isinstance(weights, Tensor):
            raise ValueError(f"{self._where}: weights must be a list of tensors, got one of shape {_shape(weights)}")
        self.weights = list(weights)
        for weight in self.weights:
            if not (isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel()):
                got = f"{weight.dtype} of shape {_shape(weight)}" if isinstance(weight, Tensor) else repr(weight)
                raise ValueError(
                    f"{self._where}: weights must be floating-point tensors with at least one element, got {got}"
                )

    @property
    def _where(self) -> str:
        return type(self).__name__

    def attach(self, model: torch.nn.Module) -> None:
        """Called once, before the optimizer is built: a gated regularizer puts its gates on the model's weights."""

    def project(self) -> None:
        """Called after each optimizer step: moves what is out of its bounds back in place (projected gradient)."""

    def take_decay(self, weight_decay: float) -> list[Tensor]:
        """Weights that this regularizer decays itself, in `backward`, at the optimizer's `weight_decay`.

        The loop leaves them without weight decay in the optimizer. Called once, before the optimizer is built.
        """
        return []

    def fold(self, model: torch.nn.Module) -> None:
        """Makes the gated weights of `model`, the attached one or a deep copy of it, plain parameters in place.

        Each has its old name and the value that evaluation sees: theta times the deterministic gate, bit for bit.
        """

    def diagnostics(self) -> dict[str, float]:
        """Numbers for a trial's record, by name: what the regularizer has done to the weights."""
        return {}

    def forward(self) -> Tensor:
        """The penalty of all weights, a differentiable scalar on their device."""
        if not self.weights:
            return torch.zeros(())
        return torch.stack([self.penalty(weight) for weight in self.weights]).sum()

    def backward(self, lam: float) -> Tensor:
        """Adds lam dR/dw to the gradients, as `(lam * R()).backward()` does, and returns R(), detached."""
        penalty = self()
        if penalty.requires_grad:
            (lam * penalty).backward()
        return penalty.detach()

    def penalty(self, weight: Tensor) -> Tensor:
        """One tensor's term: any shape -> scalar."""
        raise NotImplementedError(f"{self._where} must define penalty(weight)")


class ClosedForm(Regularizer):
    """A penalty of the form value(statistics), whose gradient is elementwise in w once the statistics are known.

    A subclass defines, with n the number of elements of the tensor and every statistic a scalar tensor:
        statistics(w) -> (s1, s2, ...)        of one tensor, or of one block of it
        merge(n, s1, s2, ...) -> the same     of a tensor out of its blocks' (vectors, n too); by default their sums
        value(n, s1, s2, ...)                 the penalty, a scalar
        gradient(scale, n, s1, s2, ...)       a function w -> scale * dR/dw, of a block or the whole; `scale` is the
                                              gradient that arrives from above (lam), best put into a scalar factor
    in differentiable operations: the second derivative (create_graph=True) is autograd's, of these same lines.
    Half-precision weights are computed in float32, and so is their penalty; their gradient has their own type.
    kernel: name and arguments of the same formulas in `_kernels.c`, () where there are none. It computes what it can read
    (float32 weights on a CPU), so `backward` then needs neither a graph nor memory.
    """

    kernel: tuple = ()

    statistics: Callable[[Tensor], tuple[Tensor, ...]]
    value: Callable[..., Tensor]
    gradient: Callable[..., Callable[[Tensor], Tensor]]

    def merge(self, n: Tensor, *statistics: Tensor) -> tuple[Tensor, ...]:
        return tuple(s.sum() for s in statistics)

    def penalty(self, weight: Tensor) -> Tensor:
        return _Penalty.apply(weight, self)

    def backward(self, lam: float) -> Tensor:
        if not (self.kernel and self.weights and all(_only_adds(weight) for weight in self.weights)):
            return super().backward(lam)
        for weight in self.weights:
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        name, *arguments = self.kernel
        gradients = [weight.grad if weight.requires_grad else None for weight in self.weights]
        return torch.tensor(_native.penalty(name, arguments, self.weights, gradients, lam=lam), dtype=torch.float32)


class _Penalty(torch.autograd.Function):
    """weight -> scalar, by a ClosedForm's formulas. Nothing here waits for the device."""

    @staticmethod
    def forward(ctx, weight, method):
        ctx.method = method
        if method.kernel and _native.takes(weight):
            ctx.save_for_backward(weight)
            name, *arguments = method.kernel
            return weight.new_tensor(_native.penalty(name, arguments, [weight], [None]))
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
        if torch.is_grad_enabled():  # create_graph=True: the statistics depend on the weight too
            statistics = ctx.method.statistics(_full(weight))
            return ctx.method.gradient(scale, weight.numel(), *statistics)(_full(weight)).to(weight.dtype), None
        if not statistics:  # the forward pass was the kernel's
            grad = torch.empty_like(weight)
            name, *arguments = ctx.method.kernel
            _native.penalty(name, arguments, [weight], [grad], lam=scale.item(), overwrite=True)
            return grad, None
        formula = ctx.method.gradient(scale, weight.numel(), *statistics)
        blocks = _blocks(weight)
        if len(blocks) == 1:
            return formula(_full(weight)).to(weight.dtype), None
        grad = torch.empty_like(weight)
        for block, out in zip(blocks, _blocks(grad), strict=True):
            out.copy_(formula(_full(block)))
        return grad, None


def _only_adds(weight: Tensor) -> bool:
    """Whether all that autograd would do with a gradient of this weight is to add it to .grad, by a kernel if given."""
    grad = weight.grad if weight.is_leaf else None
    return (
        weight.is_leaf
        and not weight._backward_hooks
        and not weight._post_accumulate_grad_hooks
        and _native.takes(weight)
        and (grad is None or (grad.dtype is weight.dtype and grad.is_cpu and grad.stride() == weight.stride()))
    )


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of rows that together are the tensor: cache-sized on a CPU, the whole elsewhere."""
    if not tensor.is_cpu or tensor.numel() <= BLOCK:
        return (tensor,)
    return tensor.split(max(1, BLOCK * tensor.shape[0] // tensor.numel()))


def _full(tensor: Tensor) -> Tensor:
    """At least float32: sums over half-precision elements need it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
