"""Training, pruning and evaluation of one configuration, without Ray except in `trainables.trial`.

`trainables.loop.train(task, config)` trains in this process. `load_pruned(folder)` loads a pruned checkpoint as a plain
PyTorch model. `shrink(model, example_inputs)` removes the channels that its output does not depend on.
"""

__distribution__ = "sparsity-sweeps"
__all__ = ["load_pruned", "shrink"]


def __getattr__(name):  # lazy, so that a command line that only prints its help does not import torch
    if name == "load_pruned":
        from trainables.pruning import load_pruned

        return load_pruned
    if name == "shrink":
        from trainables.pruning.shrinking import shrink

        return shrink
    raise AttributeError(f"module 'trainables' has no attribute {name!r}")
