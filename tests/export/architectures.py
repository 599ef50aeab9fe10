"""Every architecture in every format; run by `make test-export`.

These take minutes. `make test` has the same for two architectures.
"""

import numpy as np
import pytest
import torch

import sparsity
from tests.trainables._tiny_tasks import MODELS, make_tiny_task, tiny_config
from trainables import load_pruned
from trainables.pruning import evaluate_pruned, read_description, save_pruned
from trainables.pruning.exporting import TOLERANCE, deployable, export
from trainables.pruning.exporting.formats.onnx import open_session

# timm/NAME and its like serve the networks of a library, which are not ours to list.
ARCHITECTURES = [
    name for name in sparsity.names("trainables.architectures") if name not in ("smp", "timm", "torchvision")
]
FORMATS = ["safetensors", "torch-export", "onnx"]


def test_every_architecture_is_tried():
    assert set(ARCHITECTURES) == set(MODELS)


@pytest.mark.parametrize("shrink", [False, True], ids=["pruned", "shrunk"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_in_all_formats(tmp_path, architecture, shrink):
    config = tiny_config(architecture)
    task = make_tiny_task(config)
    torch.manual_seed(0)
    network = task.deployed(task.build_model()).eval()
    evaluation = evaluate_pruned(task, network, config, (0.9,), "validation")
    source, to = tmp_path / "0.9", tmp_path / "to"
    save_pruned(source, task, network, evaluation.masks[0.9], {})
    entry = export(source, to, formats=FORMATS, shrink=shrink, multiple_of=1, num_runs=0)
    assert set(entry["formats"]) == set(FORMATS)  # each was run on two batch sizes
    before = deployable(load_pruned(source), read_description(source)["input"])
    after = deployable(load_pruned(to), read_description(to)["input"])
    session = open_session(to / "model.onnx")
    for batch_size in (1, 4, 17):
        x = before.example(batch_size, seed=batch_size)
        with torch.no_grad():
            expected = before(x)
            torch.testing.assert_close(after(x), expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
        (found,) = session.run(["logits"], {before.input_name: x.numpy()})
        assert np.abs(found - expected.numpy()).max() <= TOLERANCE * expected.abs().max()
    for file in ("model.onnx", "model.pt2"):
        content = (to / file).read_bytes()
        assert [word for word in (b"/work", b"/tmp", b"/root", b"site-packages") if word in content] == []
