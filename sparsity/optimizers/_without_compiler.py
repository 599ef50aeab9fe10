"""Base class of the optimizers, which does not load torch's compiler.

torch.optim wraps its methods so that torch.compile does not trace them. The wrappers import `torch._dynamo` at the
first optimizer and at the first step, which costs every process that trains about 4 s of CPU time and 150 MB. The
classes of this folder use the functions inside the wrappers. `torch.optim` itself stays as it is.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from sparsity.ranges import Range

__all__ = ["Optimizer", "without_compiler"]

# Qualified names of the wrappers' code, in torch 2.10 to 2.15. The last one calls the step hooks. torch.optim puts it
# around the `step` of each class at its first instance, so our classes get their own.
WRAPPERS = {
    "_disable_dynamo.<locals>.inner",
    "_use_grad_for_differentiable.<locals>._use_grad",
    "Optimizer.profile_hook_step.<locals>.wrapper",
}


def without_compiler(method: Any) -> Any:
    """Return the function inside torch's wrappers.

    Args:
        method: A method of a class of torch.optim, taken from the class.

    Returns:
        The innermost function, or the outermost wrapper that is not in `WRAPPERS`: a torch with other wrappers keeps
        its own behavior and loads its compiler.
    """
    while _is_known_wrapper(method):
        method = method.__wrapped__
    return method


def _is_known_wrapper(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_qualname in WRAPPERS and hasattr(function, "__wrapped__")


class Optimizer(torch.optim.Optimizer):
    """`torch.optim.Optimizer` whose methods do not load torch's compiler."""

    ranges: ClassVar[Mapping[str, Range]] = {}
    is_base: ClassVar[bool] = True

    add_param_group = without_compiler(torch.optim.Optimizer.add_param_group)
    load_state_dict = without_compiler(torch.optim.Optimizer.load_state_dict)
    state_dict = without_compiler(torch.optim.Optimizer.state_dict)
    zero_grad = without_compiler(torch.optim.Optimizer.zero_grad)
