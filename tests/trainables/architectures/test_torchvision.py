import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

import sparsity


def build(name, *args, **more):
    return sparsity.load("trainables.architectures", name)(*args, **more)


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", 1), ("mobilenet_v3_small", 3), ("squeezenet1_1", 2), ("efficientnet_b0", 4)]
)
def test_it_takes_the_datasets_channels_and_classes(name, channels):
    model = build(f"torchvision/{name}", 7, channels).eval()
    assert model(torch.randn(2, channels, 64, 64)).shape == (2, 7)


def test_pretrained_weights_keep_everything_but_the_ends(monkeypatch):
    torch.manual_seed(0)
    state = resnet18().state_dict()
    given = {}

    def get_state_dict(self, **options):
        given.update(options)
        return dict(state)

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get_state_dict)
    model = build("torchvision/resnet18", 7, 1, pretrained=True)
    assert given["weights_only"] is True  # nothing is unpickled
    found = model.state_dict()
    same = [name for name in state if torch.equal(found[name], state[name]) if found[name].shape == state[name].shape]
    assert set(state) - set(same) == {"conv1.weight", "fc.weight", "fc.bias"}
    grey = torch.randn(2, 1, 8, 8)
    expected = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), state["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(model.conv1(grey), expected)
    assert model.fc.weight.shape == (7, 512)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("torchvision/resnet81", {}, "^torchvision/resnet81: must be a network of torchvision, such as .*resnet18"),
        ("torchvision/fcn_resnet50", {}, "must be a network of torchvision"),  # a segmentation network
        ("torchvision/resnet18", {"pretrained": 1}, "pretrained must be true or false, got 1"),
    ],
)
def test_faults(name, more, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, **more)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def fail(self, **options):
        raise OSError("no network")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    message = r"^torchvision/resnet18: pretrained weights must be downloadable, got OSError: no network: connect"
    with pytest.raises(ValueError, match=message):
        build("torchvision/resnet18", 10, pretrained=True)
