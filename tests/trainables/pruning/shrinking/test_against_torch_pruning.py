"""Another library removes the same channels of ordinary networks.

Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023) removes channels that it is told to
remove. Here their filters are zero, so that `shrink` has to find the same channels by itself. It is no oracle for
networks with normalization over groups of channels, or with channels that are shuffled: it is wrong on some of them.
"""

import copy

import pytest
import torch
from torch import nn

import sparsity
from trainables import shrink

pytestmark = pytest.mark.extras
torch_pruning = pytest.importorskip("torch_pruning")


def vgg_like():
    def block(channels, width):
        return [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]

    features = [*block(3, 12), nn.MaxPool2d(2), *block(12, 20), *block(20, 20), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(80, 24), nn.ReLU(), nn.Linear(24, 5))


def architecture(name, **arguments):
    return lambda: sparsity.load("trainables.architectures", name)(num_classes=5, in_channels=3, **arguments)


NETWORKS = {  # how it is built, and the layer whose outputs are the network's
    "vgg": (vgg_like, "14"),
    "resnet": (architecture("torchvision/resnet18"), "fc"),
    "mobilenet": (architecture("torchvision/mobilenet_v2", width_mult=0.25), "classifier.1"),
    "unet": (architecture("smp/unet-resnet18"), "segmentation_head.0"),
}


def zero_and_prune(network, image, last):
    """Zero two of five channels of every group of coupled channels, in place.

    Returns:
        A copy of the network without these channels, by Torch-Pruning.
    """
    pruned = copy.deepcopy(network)
    names = {layer: name for name, layer in pruned.named_modules()}
    with torch.enable_grad():  # it traces by autograd
        graph = torch_pruning.DependencyGraph().build_dependency(pruned, example_inputs=image)
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for group in graph.get_all_groups(ignored_layers=[pruned.get_submodule(last)]):
        root, remove = group[0].dep.target.module, group[0].dep.handler
        rows = torch.randperm(len(group[0].idxs), generator=generator)[: len(group[0].idxs) * 2 // 5].tolist()
        chosen.append((root, remove, rows))
        for dependency, channels in graph.get_pruning_group(root, remove, idxs=rows):
            layer = (
                network.get_submodule(names[dependency.target.module]) if dependency.target.module in names else None
            )
            if layer is not None and graph.is_out_channel_pruning_fn(dependency.handler):
                for tensor in (layer.weight, layer.bias, getattr(layer, "running_mean", None)):
                    if tensor is not None:
                        tensor[channels] = 0
    pruned.load_state_dict(network.state_dict())
    for root, remove, rows in chosen:
        graph.get_pruning_group(root, remove, idxs=rows).prune()
    return pruned


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_channels_go(name):
    build, last = NETWORKS[name]
    torch.manual_seed(0)
    network = build().double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.normal_()
            layer.running_mean.normal_()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = zero_and_prune(network, image, last).eval()
    shrunk = shrink(network, image)
    assert shrunk.after.macs < 0.6 * shrunk.before.macs
    state, other = shrunk.model.state_dict(), expected.state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in other.items()}
    for key, value in state.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0)
    torch.testing.assert_close(shrunk.model(image), network(image), rtol=0, atol=1e-9)
