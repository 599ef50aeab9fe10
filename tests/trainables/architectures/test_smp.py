import huggingface_hub
import pytest
import torch

import sparsity


def build(name, *args, **more):
    return sparsity.load("trainables.architectures", name)(*args, **more)


def test_it_takes_the_datasets_channels():
    assert build("smp/fpn-resnet18", 1, 2).eval()(torch.randn(2, 2, 64, 64)).shape == (2, 1, 64, 64)
    assert build("smp/unet-timm-skresnet18", 1).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smp/unot-resnet18", r"^smp/unot-resnet18: must begin with one of unet, .* and a hyphen, got 'unot'"),
        ("smp/unet-resnet81", r"must end in an encoder \(one of resnet18, .*\), got 'resnet81'"),
        ("smp/unet", r"must end in an encoder .*got ''"),
    ],
)
def test_faults(name, message):
    with pytest.raises(ValueError, match=message):
        build(name)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def fail(*args, **more):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **more: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    message = "^smp/unet-resnet18: encoder_weights imagenet must be downloadable from .*ConnectionError: no network"
    with pytest.raises(ValueError, match=message):
        build("smp/unet-resnet18", pretrained=True)
