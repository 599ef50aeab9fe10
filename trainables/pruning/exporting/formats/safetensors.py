from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainables.pruning.checkpoint import load_pruned, save_weights
from trainables.pruning.exporting.format import Format

__all__ = ["Safetensors"]


class Safetensors(Format):
    """The weights. `trainables.load_pruned` builds the network from them, as a plain module for prepared inputs.

    The transformers library reads the folder of a language model too.
    """

    file = "model.safetensors"

    def write(self, folder: Path) -> None:
        save_weights(self.network.network.state_dict(), folder / self.file)

    def run(self, folder: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
        network = self.network
        before, network.network = network.network, load_pruned(folder, self.architecture)
        try:
            with torch.no_grad():
                return [network(x) for x in inputs]
        finally:
            network.network = before
