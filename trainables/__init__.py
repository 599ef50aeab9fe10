"""What is trained and how: tasks, their data and networks, the loop, and the thin adapter that Ray drives.

`trainables.loop.train(task, config)` runs in a plain Python process. `load_pruned(folder)` turns a pruned
checkpoint back into a plain PyTorch model.
"""

__distribution__ = "sparsity-sweeps"
__all__ = ["load_pruned"]


def __getattr__(name):  # lazy, so that a command line that only prints its help does not import torch
    if name == "load_pruned":
        from trainables.pruning import load_pruned

        return load_pruned
    raise AttributeError(f"module 'trainables' has no attribute {name!r}")
