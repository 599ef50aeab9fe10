"""Optimizers: one class per file, a `torch.optim.Optimizer` with step(closure).

An optimizer decides how many gradients a step takes. The closure clears the gradients, computes the loss and its
gradients, and returns the loss. All arguments after `params` and `lr` are keywords. They are stored in the parameter
groups, so `state_dict` contains them. If an optimizer has an argument `num_steps`, the training loop passes the number
of steps of the training.

Class attributes:
    ranges: Search range of each argument that is worth searching, by name: `SAM.ranges["rho"]`. A search space
        overrides it. Empty where only `lr` and `weight_decay` matter, whose ranges depend on the task.
    is_base: False for an optimizer that cannot be the `base` of another one.
    makes_sparse: True for an optimizer that makes weights sparse during training. It leaves a parameter group with
        `dense` = True as it is; the training loop puts position embeddings into such a group.

The section "Cost" of a docstring counts gradient evaluations per step, and memory beside the weights and their
gradients in multiples of the weights' own.
"""

BASE = "torch.optim:Optimizer"  # of every class
