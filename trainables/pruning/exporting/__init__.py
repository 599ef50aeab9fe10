"""Take a pruned network away: a folder that other tools read.

The folder has the same layout for every task:

- `config.json`: what `trainables.load_pruned` needs (`architecture`, `model`, `added_biases`), how inputs are prepared
  (`input`), how the network was trained and pruned, and `export`: the formats, the raw inputs, sizes and latencies.
- `model.safetensors`: the weights, for `load_pruned`. Inputs are prepared by the caller, as `input` says.
- `model.pt2` (torch-export) and `model.onnx` (onnx): graphs for raw inputs, with their preparation inside.

The folder of a language model also has the layout of the Hugging Face hub: config.json is the transformers library's
configuration, the entries above are in sparsity.json, and tokenizer and model card lie beside it.
"""

from trainables.pruning.exporting.deployable import Deployable, deployable
from trainables.pruning.exporting.folder import TOLERANCE, export, format_names
from trainables.pruning.exporting.measuring import costs
from trainables.pruning.exporting.source import find_checkpoint

__all__ = ["TOLERANCE", "Deployable", "costs", "deployable", "export", "find_checkpoint", "format_names"]
