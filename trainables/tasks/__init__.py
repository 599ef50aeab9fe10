"""Tasks, one per file: data, loss, metrics and prunable weights of a problem.

To add a task, write `NAME.py` in this folder with a class that derives from `trainables.task.Task`, as the only entry
of `__all__`. The file is found by its name; there is no list to add it to. A task for another dataset of images is
rarely needed: add a dataset and an architecture, and use `cnn`. To change how images are trained or pruned, derive from
`CNN`, as `vit` does.

    class Regression(Task):
        objective = "r2"  # the metric of `evaluate` that the search maximizes after pruning

        @classmethod
        def load(cls, config, root=None): ...
        def __init__(self, config, data, device="cpu"): ...
        def build_model(self): ...
        ...

- `load` reads the data once per node, as NumPy arrays that all trials share and must not write to. `__init__` takes
  what `load` returns. Both refuse a configuration that does not fit, by a ValueError of one line.
- `build_model` uses torch's global generator, which the trial has seeded. `batches(split, batch_size, seed=...)`
  depends on its arguments only.
- `loss` is a mean over the batch, without the penalty. `parts` divides a batch so that the weighted losses of the parts
  sum to that mean.
- `evaluate` returns finite floats: the objective, `loss` and `collapsed`, even for a network that pruning has
  destroyed.
- `prunable` names weights by their names in the model. `regularized` may differ from it.
- No step waits for the device: no `.item()` and no tensor of another device in `batches`, `loss` or `forward`.
- Settings of the task (`--task-arg key=value`) are the fields of a frozen dataclass `NAMESettings`, constructed by
  `construct("task_args", NAMESettings, arguments=config.task_args)`.

`pytest tests/trainables/test_contracts.py` trains every task with every optimizer and regularizer for two steps and
reloads its pruned networks. It needs a tiny network and data: add them to `NETWORKS` in that file and to
`tests/trainables/_tiny_tasks.py`.
"""

BASE = "trainables.task:Task"  # of every class
