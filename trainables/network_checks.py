"""Checks of a network that a task has built."""

from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import one_line
from trainables.task import Task

__all__ = ["check_forward", "check_network"]

TRAINED_TYPES = (torch.float32, torch.float64)
NUM_EXAMPLES = 2  # BatchNorm needs more than one example


def check_network(model: Any, name: str) -> None:
    """Check that a network can be trained.

    Args:
        model: What the architecture returned.
        name: The architecture, for the error message.

    Raises:
        ValueError: If it is no nn.Module, has no trained weights, or has trained weights that are not float32.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"architecture: {name} must return a torch.nn.Module, got {type(model).__name__}")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(f"architecture: {name} must have weights to train, got a network whose weights are all frozen")
    for parameter_name, parameter in trained.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"architecture: {name} must have weights of known shape (call a lazy network once on an example), got "
                f"none for {parameter_name}"
            )
        if parameter.dtype not in TRAINED_TYPES:
            raise ValueError(
                f"architecture: {name} must have float32 weights (smaller ones lose the small steps of a penalty; on a "
                f"GPU, products are bfloat16 anyway), got {str(parameter.dtype).removeprefix('torch.')} in "
                f"{parameter_name}"
            )


def check_forward(task: Task, model: nn.Module, name: str) -> None:
    """Compute the loss of two examples. The network and torch's random state are not changed.

    Args:
        model: As the task builds it.
        name: The architecture, for the error message.

    Raises:
        ValueError: If the network raises, or does not return what the task needs.
    """
    batch = next(iter(task.batches("train", NUM_EXAMPLES, seed=0)))
    inputs = task.inputs(batch)
    shape = " x ".join(map(str, inputs.shape))
    state = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            expected = task.output_shape(batch)
            if expected is not None:
                with task.autocast():
                    check_output(model(inputs), expected, name)
            task.loss(model, batch)
        except ValueError:
            raise
        except Exception as error:  # whatever the network raises
            raise ValueError(
                f"architecture: {name} must take a batch of the dataset, tried {shape} and got {one_line(error)}"
            ) from error
        finally:
            for buffer, before in zip(model.buffers(), state, strict=True):
                buffer.copy_(before)


def check_output(output: Any, expected: tuple[int, ...], name: str) -> None:
    shape = " x ".join(map(str, expected))
    if isinstance(output, Tensor) and tuple(output.shape) == expected and output.is_floating_point():
        return
    if isinstance(output, Tensor):
        got = f"{str(output.dtype).removeprefix('torch.')} {' x '.join(map(str, output.shape))}"
    elif isinstance(output, dict):
        got = f"a {type(output).__name__} with {', '.join(map(str, output)) or 'nothing'}: return one of its tensors"
    else:
        got = f"a {type(output).__name__}: return one tensor"
    raise ValueError(f"architecture: {name} must return logits, a float tensor {shape}, got {got}")
