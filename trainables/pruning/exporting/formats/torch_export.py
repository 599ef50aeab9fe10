import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.pruning.exporting.format import Format

__all__ = ["TorchExport"]

# torch.export.load unpickles whatever a file marks as pickled. Ours has nothing of this kind. It is still opened in
# another process, which has nothing but torch: the file must not need this project.
RUN = """
import sys, torch
from safetensors.torch import load_file, save_file
program, inputs, outputs = sys.argv[1:]
torch.set_num_threads(1)
network = torch.export.load(program).module()
with torch.no_grad():
    save_file({name: network(x).contiguous() for name, x in load_file(inputs).items()}, outputs)
"""


class TorchExport(Format):
    """A program of `torch.export`: the graph in float32, for raw inputs and a batch of any size.

    `torch.export.load("model.pt2").module()` runs it without the project. Load only files that you trust: PyTorch
    unpickles what a file of this format marks as pickled. Files written here hold no pickles.
    """

    file = "model.pt2"

    def write(self, folder: Path) -> None:
        network = self.network
        axes = {axis: torch.export.Dim(name) for axis, name in network.dynamic.items()}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (network.example(2),), dynamic_shapes=(axes,), strict=False)
            remove_traces(program)
            torch.export.save(program, folder / self.file)

    def run(self, folder: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
        with tempfile.TemporaryDirectory() as scratch:
            given, found = Path(scratch) / "inputs", Path(scratch) / "outputs"
            save_file({str(i): x.contiguous() for i, x in enumerate(inputs)}, given)
            command = [sys.executable, "-P", "-W", "ignore", "-c", RUN, *map(str, (folder / self.file, given, found))]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, cwd=scratch)
            except subprocess.CalledProcessError as error:
                last = (error.stderr.strip().splitlines() or ["no message"])[-1]
                raise ValueError(f"export: {self.file} must run without the project, got {last}") from error
            outputs = load_file(found)
        return [outputs[str(i)] for i in range(len(inputs))]


def remove_traces(program: torch.export.ExportedProgram) -> None:
    """Remove the inputs that the graph was traced with, which are saved as a pickle, and stack traces with paths."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
