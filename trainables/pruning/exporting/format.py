"""The interface of a format of exported networks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from trainables.pruning.exporting.deployable import Deployable

__all__ = ["Format"]


class Format(ABC):
    """Writes a network to a file, and runs the file.

    Args:
        network: A network that takes raw inputs, in evaluation mode, on the CPU.
        description: The checkpoint's description (see `trainables.pruning.read_description`).
        architecture: See `load_pruned`.

    Attributes:
        file: The name of the file.
    """

    file: ClassVar[str]

    def __init__(self, network: Deployable, description: dict[str, Any], architecture: str | None = None):
        self.network, self.description, self.architecture = network, description, architecture

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the file into the folder, which has config.json already."""

    @abstractmethod
    def run(self, folder: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of the written file for raw inputs, computed without the network in memory."""
