"""What the written files must satisfy. `make test-export` does the same for every architecture."""

import sys
import zipfile

import numpy as np
import pytest
import torch

import sparsity
from trainables.pruning import load_pruned, read_description
from trainables.pruning.exporting import TOLERANCE, deployable, export
from trainables.pruning.exporting.formats.onnx import open_session

ARCHITECTURES = ("small_resnet", "vit")  # the others take longer
LOCAL = (b"/work", b"/tmp", b"/home", b"/root", b"site-packages", b".py\x00", b'.py"', sys.prefix.encode())


@pytest.fixture
def unpickled():
    """The names that unpickling looks up while the test runs."""
    found, active = [], True

    def note(event, arguments):
        if active and event == "pickle.find_class":
            found.append(arguments)

    sys.addaudithook(note)  # it cannot be removed
    yield found
    active = False


def eager(folder, inputs):
    network = deployable(load_pruned(folder), read_description(folder)["input"])
    with torch.no_grad():
        return [network(x) for x in inputs]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_onnx_runtime_gives_the_outputs_of_any_batch_from_raw_inputs(checkpoint, tmp_path, architecture, unpickled):
    _, folder = checkpoint(architecture)
    to = tmp_path / "exported"
    entry = export(folder, to, formats=["onnx"], num_runs=0)
    session = open_session(to / "model.onnx")
    network = deployable(load_pruned(folder), read_description(folder)["input"])
    assert [(i.name, i.type) for i in session.get_inputs()] == [
        (entry["input"]["name"], "tensor(int64)" if architecture == "causal_lm" else "tensor(uint8)")
    ]
    inputs = [network.example(n, seed=n) for n in (1, 3, 17)]
    for x, expected in zip(inputs, eager(folder, inputs), strict=True):
        (found,) = session.run(["logits"], {entry["input"]["name"]: x.numpy()})
        assert np.abs(found - expected.numpy()).max() <= TOLERANCE * expected.abs().max()
    content = (to / "model.onnx").read_bytes()
    assert [word for word in LOCAL if word in content] == []
    assert unpickled == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_torch_program_has_neither_pickles_nor_paths(checkpoint, tmp_path, architecture, unpickled):
    _, folder = checkpoint(architecture)
    description = read_description(folder)
    network = deployable(load_pruned(folder), description["input"])
    made = sparsity.load("trainables.pruning.exporting.formats", "torch_export")(network, description)
    made.write(tmp_path)
    file = tmp_path / "model.pt2"
    inputs = [network.example(n, seed=n) for n in (1, 17)]
    program = torch.export.load(file).module()
    for x, expected in zip(inputs, eager(folder, inputs), strict=True):
        torch.testing.assert_close(program(x), expected, rtol=0, atol=1e-6)
    content = file.read_bytes()
    assert [word for word in LOCAL if word in content] == []
    with zipfile.ZipFile(file) as archive:
        assert archive.read("model/data/sample_inputs/model.pt") == b""
        for part in ("weights", "constants"):
            assert b'"use_pickle": true' not in archive.read(f"model/data/{part}/model_{part}_config.json")
    assert unpickled == []
