import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.pruning.exporting.format import Format

__all__ = ["ONNX"]


class ONNX(Format):
    """An ONNX graph in float32 that takes raw inputs and a batch of any size. It runs in ONNX Runtime.

    A network of more than 2 GB has its weights in model.onnx.data beside the graph, since ONNX files cannot be larger.
    """

    file = "model.onnx"

    def write(self, folder: Path) -> None:
        network = self.network
        with quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                network,
                (network.example(2),),
                dynamo=True,
                dynamic_shapes=(dict(network.dynamic),),
                input_names=[network.input_name],
                output_names=[network.output_name],
                verbose=False,
            )
            remove_traces(program.model)
            program.save(folder / self.file)

    def run(self, folder: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
        session = open_session(folder / self.file)
        return [torch.from_numpy(session.run(None, {self.network.input_name: x.numpy()})[0]) for x in inputs]


def open_session(file: Path) -> Any:
    """A session of ONNX Runtime on one CPU thread."""
    import onnxruntime  # lazy: most processes do not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def remove_traces(model: Any) -> None:
    """Remove the stack traces of the network's code: a third of a small file, with paths of this machine."""
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            values += node.outputs
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress and the advice of torch's exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
