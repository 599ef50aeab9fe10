"""Training in several phases, as lottery tickets need it: masks held at zero, rewinding, and the network to keep."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.pruning_schedule import make_pruning_schedule

__all__ = ["Lottery", "Ticket", "has_sparsity", "hold_at_zero", "weights_left"]


@dataclass(frozen=True)
class Ticket:
    """The network of a phase, kept for the sparsity that it was trained at.

    Attributes:
        weights: Its state dict, in plain weights.
        masks: Weight name -> bool tensor, True = kept.
    """

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]


class Lottery:
    """What the phases of a pruning schedule pass on to each other. With a single phase nothing happens here.

    Attributes:
        schedule: The pruning schedule of the configuration.
        masks: Weight name -> bool tensor, True = kept; empty until something is removed.
        early_weights: The state dict without gates that later phases begin at; None is the initialization.
        early_gates: The regularizer's state dict at the same epoch.
        tickets: Sparsity -> the network that was trained at it.
    """

    def __init__(self, config: TrialConfig):
        self.config = config
        self.schedule = make_pruning_schedule(config)
        self.masks: dict[str, Tensor] = {}
        self.early_weights: dict[str, Tensor] | None = None
        self.early_gates: dict[str, Tensor] = {}
        self.tickets: dict[float, Ticket] = {}

    @property
    def num_phases(self) -> int:
        return self.schedule.num_phases

    def rewinds_to(self, epoch: int) -> bool:
        """Whether later phases begin at the weights that this epoch of the first phase ends with."""
        return self.num_phases > 1 and epoch == self.schedule.rewind_epoch

    def keep_early(self, weights: Mapping[str, Tensor], gates: Mapping[str, Tensor]) -> None:
        """Copy the weights and gates that later phases begin at."""
        self.early_weights, self.early_gates = copy.deepcopy(dict(weights)), copy.deepcopy(dict(gates))

    def begin_phase(self, model: nn.Module, prunable: Mapping[str, Tensor]) -> None:
        """Rewind a new network, and hold the removed weights at zero from now on.

        Args:
            prunable: The model's prunable weights by name.
        """
        if self.early_weights is not None:
            model.load_state_dict(self.early_weights)
        hold_at_zero(prunable, self.masks)

    def end_phase(
        self,
        phase: int,
        model: nn.Module,
        prunable: Mapping[str, Tensor],
        *,
        scores: Callable[[], dict[str, Tensor]],
        gates: Callable[[], dict[str, Tensor]],
    ) -> None:
        """Keep the network if it is a ticket, and let the pruning schedule choose the masks of the next phase.

        Args:
            phase: The phase that has ended, counted from 0.
            model: Its trained network in plain weights. The ticket takes its tensors.
            prunable: The model's prunable weights by name.
            scores: Computes the criterion's scores by weight name.
            gates: Computes the values of the regularizer's gates by weight name.
        """
        masks = self.masks or {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable.items()}
        if self.schedule.is_ticket(phase):
            for level in self.config.levels:
                if level not in self.tickets and has_sparsity(masks, level):
                    self.tickets[level] = Ticket(model.state_dict(), masks)
        if phase + 1 < self.num_phases:
            self.masks = self.schedule.next_masks(phase, masks, scores=scores, gates=gates)

    def state_dict(self) -> dict[str, Any]:
        return {
            "masks": self.masks,
            "early_weights": self.early_weights,
            "early_gates": self.early_gates,
            "tickets": {level: vars(ticket) for level, ticket in self.tickets.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from a checkpoint.

        Args:
            device: Where masks are needed: that of the network. Weights are copied into a network, from anywhere.
        """
        self.masks = moved(state["masks"], device)
        self.early_weights, self.early_gates = state["early_weights"], state["early_gates"]
        self.tickets = {
            level: Ticket(ticket["weights"], moved(ticket["masks"], device))
            for level, ticket in state["tickets"].items()
        }


def moved(masks: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: mask.to(device) for name, mask in masks.items()}


def hold_at_zero(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set removed weights to zero, and their gradients from now on, so that nothing an optimizer does moves them."""
    for name, mask in masks.items():
        mask = mask.to(weights[name].device)
        with torch.no_grad():
            weights[name].masked_fill_(~mask, 0)
        if weights[name].requires_grad:
            weights[name].register_hook(lambda grad, mask=mask: grad * mask)


def weights_left(masks: Mapping[str, Tensor]) -> float:
    """The fraction of weights that masks keep; 1 without masks."""
    num_weights = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / num_weights if num_weights else 1.0


def has_sparsity(masks: Mapping[str, Tensor], sparsity: float) -> bool:
    """Whether masks remove at least this fraction, up to half a weight per tensor, which is how pruning rounds."""
    num_weights = sum(mask.numel() for mask in masks.values())
    num_removed = num_weights - sum(int(mask.sum()) for mask in masks.values())
    return num_removed >= sparsity * num_weights - len(masks) / 2
