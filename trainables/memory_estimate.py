"""What training takes in memory on a CPU, estimated from one forward pass of two examples."""

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.tasks._base import Task

__all__ = ["training_memory"]

NUM_EXAMPLES = 2  # BatchNorm needs more than one
PROCESS_BYTES = 700 << 20  # Python with PyTorch and Ray, measured before the first step


def training_memory(task: Task, config: TrialConfig, model: torch.nn.Module) -> int | None:
    """Bytes of a process that trains `model`, the data set's not included; None where that cannot be said.

    Activations: those that backpropagation keeps of NUM_EXAMPLES examples and three more of the largest one, for its
    gradients, scaled to a batch. Of each trained weight: its gradient and two tensors of the optimizer's state. Three
    networks: the trained one, and at an evaluation one more before pruning and one after it.
    """
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its address
        return tensor

    weights = [*model.parameters(), *model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            batch = next(iter(task.batches("train", NUM_EXAMPLES, seed=0)))
            state = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                task.loss(model, batch)
            for buffer, before in zip(model.buffers(), state, strict=True):
                buffer.copy_(before)
    except Exception:  # an estimate is not worth a sweep: what is wrong with the task, its trials say
        return None
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    activations = sum(sizes) + 3 * max(sizes, default=0)
    scale = config.batch_size / config.accumulate / NUM_EXAMPLES
    trained = sum(weight.nbytes for weight in weights if weight.requires_grad)
    return PROCESS_BYTES + round(activations * scale) + 3 * trained + 3 * sum(weight.nbytes for weight in weights)
