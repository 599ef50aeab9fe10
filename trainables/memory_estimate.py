"""An estimate of the memory that training needs on a CPU, from one forward pass of two examples."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.task import Task

__all__ = ["saved_sizes", "training_memory"]

NUM_EXAMPLES = 2  # BatchNorm needs more than one example
PROCESS_BYTES = 700 << 20  # Python with PyTorch and Ray, measured before the first step


def training_memory(task: Task, config: TrialConfig, model: torch.nn.Module) -> int | None:
    """Estimate the bytes of a process that trains `model`, without the dataset.

    The estimate is a sum of four parts:

    - the process itself;
    - the activations that autograd saves for two examples, plus three times the largest of them for gradients, scaled
      to the batch;
    - a gradient and two tensors of optimizer state for each trained weight;
    - three copies of the network, because an evaluation holds one before pruning and one after it, beside the trained
      one.

    Args:
        model: As the task builds it. It is not changed.

    Returns:
        The number of bytes, or None if the forward pass fails.
    """
    weights = [*model.parameters(), *model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            batch = next(iter(task.batches("train", NUM_EXAMPLES, seed=0)))
            state = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's
            sizes = saved_sizes(model, lambda: task.loss(model, batch))
            for buffer, before in zip(model.buffers(), state, strict=True):
                buffer.copy_(before)
    except Exception:  # a failed estimate must not stop the sweep; its trials report what is wrong with the task
        return None
    activations = sum(sizes) + 3 * max(sizes, default=0)
    scale = config.batch_size / config.accumulate / NUM_EXAMPLES
    trained = sum(weight.nbytes for weight in weights if weight.requires_grad)
    return PROCESS_BYTES + round(activations * scale) + 3 * trained + 3 * sum(weight.nbytes for weight in weights)


def saved_sizes(model: torch.nn.Module, compute: Callable[[], object]) -> list[int]:
    """Bytes of each tensor that autograd saves during `compute`, without the model's parameters and buffers."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    for weight in (*model.parameters(), *model.buffers()):
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return [tensor.untyped_storage().nbytes() for tensor in kept.values()]
