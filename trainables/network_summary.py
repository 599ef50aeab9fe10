"""What a network consists of, and which of its weights pruning and the penalty see."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from trainables.config import TrialConfig
from trainables.prunable import prunable_weights
from trainables.pruning_method import PruningMethod
from trainables.task import Task
from trainables.weights import tied_names

__all__ = ["Weight", "in_words", "summarize_network"]


@dataclass(frozen=True)
class Weight:
    """A parameter of a network.

    Attributes:
        name: Its name in the network.
        layer: The class of the layer that it belongs to.
        shape: Its shape.
        num: Its number of elements.
        prunable: Whether pruning may remove elements.
        regularized: Whether the penalty sees it.
        left_out: Why pruning leaves it out; "" if it does not.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    num: int
    prunable: bool
    regularized: bool
    left_out: str


def summarize_network(
    task: Task, model: nn.Module, config: TrialConfig, *, regularized: Collection[str]
) -> list[Weight]:
    """List the parameters of a network, with why each is left out of pruning.

    Args:
        model: As the task builds it.
        config: Its first pruning method decides.
        regularized: Names of the weights that the penalty sees.
    """
    pruned = {weight: name for name, weight in prunable_weights(task, model, config).items()}
    tied = tied_names(model)
    rows = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = model.get_submodule(name.rpartition(".")[0])
        is_first = name not in tied
        reason = "" if parameter in pruned else why_left_out(name, parameter, layer, config)
        rows.append(
            Weight(
                name=pruned.get(parameter, name) if is_first else name,
                layer=type(layer).__name__,
                shape=tuple(parameter.shape),
                num=parameter.numel() if is_first else 0,
                prunable=parameter in pruned and is_first,
                regularized=name in regularized,
                left_out=reason if is_first else f"tied to {tied[name]}",
            )
        )
    return rows


def why_left_out(name: str, parameter: nn.Parameter, layer: nn.Module, config: PruningMethod) -> str:
    kind = type(layer).__name__
    if "Norm" in kind:
        return "normalization"
    if name.endswith("bias"):
        return "bias"
    if parameter.ndim < 2:
        return "vector"
    if config.prunable:
        return "not matched by --prunable"
    if not parameter.requires_grad:
        return "frozen"
    return f"{kind}, which the task does not prune"


def in_words(weights: Sequence[Weight], name: str, *, hint: bool = True) -> list[str]:
    """Two lines about a network: what can be pruned, and what is left out and why."""
    total, chosen = sum(w.num for w in weights), [w for w in weights if w.prunable]
    num = sum(w.num for w in chosen)
    layers = len({w.name.rpartition(".")[0] for w in weights})
    lines = [
        f"network: {name}, {layers} layers, {total:,} weights; {num:,} ({num / max(1, total):.1%}) can be pruned, in "
        f"{len(chosen)} tensor{'s' * (len(chosen) != 1)}"
    ]
    others = sorted((w for w in weights if not w.prunable), key=group)
    parts = []
    for reason, found in groupby(others, key=group):
        members = list(found)
        parts.append(
            f"{sum(w.num for w in members):,} in {len(members)} tensor{'s' * (len(members) > 1)} ({reason})"
            if reason != "tied"
            else f"{len(members)} further name{'s' * (len(members) > 1)} of tied weights"
        )
    if parts:
        lines.append(f"not pruned: {', '.join(parts)}{'; sweeps inspect lists them' * hint}")
    return lines


def group(weight: Weight) -> str:
    return "tied" if weight.left_out.startswith("tied") else weight.left_out
