"""Every architecture, and some networks of each library, in every format; run by `make test-export`.

These take minutes. `make test` has the same for two architectures.
"""

import numpy as np
import pytest
import torch
from torch import nn

import sparsity
from tests.trainables._tiny_tasks import MODELS, make_tiny_task, tiny_config
from trainables import load_pruned
from trainables import shrink as shrink_network
from trainables.pruning import evaluate_pruned, read_description, save_pruned
from trainables.pruning.exporting import TOLERANCE, deployable, export
from trainables.pruning.exporting.formats.onnx import open_session

# Networks of a library: their arguments, and the sizes of images at which a shrunk network is compared. A Vision
# Transformer takes one size.
LIBRARIES = {
    "timm/resnet18": ({}, (64, 96)),
    "timm/mobilenetv3_small_050": ({}, (64, 96)),
    "timm/vit_tiny_patch16_224": ({"img_size": 8, "patch_size": 4, "depth": 2}, (8,)),
    "torchvision/resnet18": ({}, (64, 96)),
    "torchvision/mobilenet_v2": ({}, (64, 96)),
    "torchvision/shufflenet_v2_x0_5": ({}, (64, 96)),
    "smp/unet-resnet18": ({}, (32, 96)),
}
FORMATS = ["safetensors", "torch-export", "onnx"]


def test_every_architecture_is_tried():
    libraries = {name.partition("/")[0] for name in LIBRARIES}
    assert {*sparsity.names("trainables.architectures")} == {*MODELS, *libraries}


@torch.no_grad()
def weaken_filters(network):
    """Make two of five filters of each layer so small that magnitude pruning removes all of their weights."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight[torch.rand(len(layer.weight), generator=generator) < 0.4] *= 1e-4


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_network_of_a_library_shrinks_exactly(name):
    arguments, sizes = LIBRARIES[name]
    torch.manual_seed(0)
    network = sparsity.load("trainables.architectures", name)(num_classes=5, **arguments).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.ndim == 1 and tensor_name.endswith(("weight", "running_var")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.3, generator=generator)
        weaken_filters(network)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter[parameter.abs() < parameter.abs().median()] = 0
    images = [torch.randn(2, 3, size, size, dtype=torch.float64, generator=generator) for size in sizes]
    shrunk = shrink_network(network, images[0])
    assert shrunk.note == ""
    assert shrunk.after.macs < 0.9 * shrunk.before.macs
    for x in images:
        with torch.no_grad():
            expected = network(x)
            torch.testing.assert_close(shrunk.model(x), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("architecture", "shrink"),
    [*((name, shrink) for name in MODELS for shrink in (False, True)), *((name, True) for name in LIBRARIES)],
)
def test_a_network_in_all_formats(tmp_path, architecture, shrink):
    config = tiny_config(architecture)
    if architecture in LIBRARIES:
        config = tiny_config(architecture, model=LIBRARIES[architecture][0])
    task = make_tiny_task(config)
    torch.manual_seed(0)
    network = task.deployed(task.build_model()).eval()
    if architecture in LIBRARIES:
        weaken_filters(network)
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
