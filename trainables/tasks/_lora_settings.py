"""The settings of the task `lora`, and the configurations that it supports."""

from dataclasses import dataclass

import sparsity
from sparsity.gates import Gated
from trainables.architectures.causal_lm import DEFAULT_BASE
from trainables.arguments import construct
from trainables.config import TEST_ARGUMENTS, TrialConfig

__all__ = ["LoRASettings", "base_of", "check_config"]

UNSUPPORTED_CRITERIA = {  # criterion -> reason
    "compensation": "the projections have no bias that could hold a shift",
    "grasp": "it needs a network whose output is a tensor",
    "synflow": "it needs inputs of 1, and tokens are no numbers",
}


@dataclass(frozen=True)
class LoRASettings:
    """Settings of the task `lora`, set by `--task-arg`.

    An adapted layer computes W0 x + (alpha / r) B A dropout(x), with A (r, in) and B (out, r) trained and B = 0 at
    first.

    Attributes:
        r: Rank of the factors, at least 1.
        alpha: Scale of the adapters, > 0.
        dropout: Probability of zeroing an input of the factors in training, in [0, 1).
        projections: Comma-separated names of the linear layers that are adapted and, once merged, pruned.
        regularize: Weights that the penalty is computed on: "factors" (each A and each B) or "merged" (each
            W0 + (alpha / r) B A).
        base_dtype: Type of the frozen weights during training: "float32" or "bfloat16". bfloat16 halves their memory
            and loses nothing if the checkpoint is in bfloat16. Merged weights are always float32.
        gradient_checkpointing: Whether to recompute the activations of each block in the backward pass instead of
            keeping them.
        train_on_inputs: Whether the training loss includes the prompt's tokens.
        answer: How the test split is answered: "choose" (the most probable candidate), or "generate" (also as DoRA
            does, from a generated text). Only the confirmation of a sweep reads the test split.

    Raises:
        ValueError: If a value is out of range.
    """

    r: int = 32
    alpha: float = 64
    dropout: float = 0.05
    projections: str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    regularize: str = "factors"
    base_dtype: str = "float32"
    gradient_checkpointing: bool = False
    train_on_inputs: bool = False
    answer: str = TEST_ARGUMENTS["lora"]["answer"]

    def __post_init__(self) -> None:
        if not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"task_args: r must be a whole number >= 1 (it is a rank), got {self.r!r}")
        if not self.alpha > 0:
            raise ValueError(f"task_args: alpha must be > 0 (it scales the adapters), got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"task_args: dropout must be in [0, 1), got {self.dropout}")
        for name, choices in (
            ("regularize", ("factors", "merged")),
            ("base_dtype", ("float32", "bfloat16")),
            ("answer", ("choose", "generate")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"task_args: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("train_on_inputs", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"task_args: {name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.projections, str) or not self.names:
            raise ValueError(f"task_args: projections must be names of linear layers, got {self.projections!r}")

    @property
    def names(self) -> list[str]:
        """The names in `projections`."""
        return [name.strip() for name in self.projections.split(",") if name.strip()]


def check_config(config: TrialConfig) -> LoRASettings:
    """Check that a configuration is possible with adapters.

    Returns:
        Its settings.

    Raises:
        ValueError: For the first choice that is not.
    """
    settings = construct("task_args", LoRASettings, arguments=config.task_args)
    if config.architecture != "causal_lm":
        raise ValueError(f"lora: architecture must be causal_lm, got {config.architecture}")
    if config.pruning_schedule != "one_shot":
        raise ValueError(
            "lora: pruning_schedule must be one_shot (merging adapters restores the weights that a round removed), "
            f"got {config.pruning_schedule}"
        )
    for method in config.pruning:
        if reason := UNSUPPORTED_CRITERIA.get(method.criterion):
            raise ValueError(f"lora: criterion must fit a language model ({reason}), got {method.criterion}")
    if settings.regularize == "merged" and issubclass(sparsity.load("regularizers", config.regularizer), Gated):
        raise ValueError(
            f"task_args: regularize must be factors with {config.regularizer} (gates are put on parameters), got merged"
        )
    return settings


def base_of(config: TrialConfig) -> str:
    """Return the name or folder of the network that is fine-tuned."""
    return str(config.model.get("base", DEFAULT_BASE))
