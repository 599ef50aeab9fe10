"""What the networks share: the check of their sizes, and the initialization of torchvision's residual networks."""

from torch import nn

__all__ = ["check_counts", "init_residual"]


def check_counts(where, **counts):
    """ValueError unless every one of the named values is a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{where}: {name} must be a whole number >= 1, got {value!r}")


def init_residual(model):
    """Draw every convolution from Kaiming's normal distribution, fan_out, gain of ReLU (He et al. 2015), in place.

    BatchNorm starts at scale 1 and shift 0 and linear layers as torch draws them, both without doing anything here.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
