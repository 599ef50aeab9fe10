"""An exported network made by hand: flat images of 2 x 2 pixels, multiplied by a matrix."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)
PIXELS = np.array([[[[1, 2], [3, 4]]], [[[0, 255], [0, 1]]]], np.uint8)
COSTS = [
    {"network": network, "parameters": 12, "nonzero": 11, "macs": macs, "file_bytes": 100, "gzip_bytes": 50}
    | {"eager_ms_1": 0.5, "eager_ms_64": 2.0, "onnx_ms_1": 0.1, "onnx_ms_64": None, "num_runs": {}}
    for network, macs in (("dense", 12), ("pruned", 12), ("shrunk", 8))
]


def write_exported(folder):
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    entry = {
        "input": {"name": "images", "dtype": "uint8", "shape": [None, 1, 2, 2], "largest": 255},
        "output": {"name": "logits", "dtype": "float32", "shape": [None, 3]},
        "software": {"onnx": "1.23.2", "onnxruntime": "1.31.1"},
        "costs": COSTS,
    }
    (folder / "config.json").write_text(json.dumps({"architecture": "toy", "export": entry}))
    (folder / "model.safetensors").write_bytes(b"weights")


def outputs_of(pixels):
    return pixels.reshape(len(pixels), -1).astype(np.float32) @ WEIGHTS
