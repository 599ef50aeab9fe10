"""torch.optim without torch.compile's machinery, which it imports to tell it where not to trace: at the first optimizer
and again at the first step, 3.5 CPU seconds and 150 MB of every process that trains.

Optimizers of this folder import `Optimizer` from here, and those that are torch.optim's own have `Eager` before them.
"""

import inspect

import torch
from torch.optim import Optimizer

__all__ = ["Eager", "Optimizer"]

# What torch._disable_dynamo would import the compiler to make: the same function, not traced. Without a compiler there
# is nothing that would trace it. A torch that looks elsewhere only imports its compiler again.
for _method in (Optimizer.add_param_group, Optimizer.load_state_dict, Optimizer.state_dict, Optimizer.zero_grad):
    _plain = inspect.unwrap(_method)
    _plain.__dynamo_disable = _plain


class Eager(Optimizer):
    """Before one of torch.optim's classes: its step, without the wrapper that breaks a compiler's graph around it."""

    def step(self, closure=None):
        with torch.no_grad():
            return inspect.unwrap(super(Eager, type(self)).step)(self, closure)
