import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainables.architectures.unet import unet

SMALL = {"encoder": "resnet18", "decoder_width": 2}


def total(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_default_is_the_papers_resnet50_unet():
    """The encoder is torchvision's ResNet-50: 25,557,032 parameters without the 2,049,000 of the classifier."""
    with torch.device("meta"):
        model = unet()
        assert total(model) == 32_521_105
        assert total(model.encoder) == 25_557_032 - 2_049_000
        assert model(torch.empty(2, 3, 256, 256)).shape == (2, 1, 256, 256)


@pytest.mark.parametrize(("in_channels", "num_classes", "size"), [(3, 1, 64), (1, 4, 32), (3, 1, 40)])
def test_logits_have_the_size_of_the_images(in_channels, num_classes, size):
    model = unet(num_classes, in_channels, **SMALL)
    logits = model(torch.randn(2, in_channels, size, size))
    assert logits.shape == (2, num_classes, size, size)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("width", [1, 4])
def test_decoder_width(width):
    decoder = unet(encoder="resnet18", decoder_width=width).decoder
    channels = [module.out_channels for module in decoder.modules() if isinstance(module, nn.Conv2d)]
    assert channels == [count for factor in (16, 8, 4, 2, 1) for count in (factor * width,) * 2]


def test_the_seed_determines_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(unet(**SMALL).parameters())

    one, same, other = weights(0), weights(0), weights(1)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_refuses_bad_arguments():
    for argument in ("num_classes", "in_channels", "decoder_width"):
        with pytest.raises(ValueError, match=f"^unet: {argument} must be a whole number >= 1, got 0$"):
            unet(**{**SMALL, argument: 0})
    with pytest.raises(ValueError, match=r"^unet: encoder must be one of resnet18, resnet34, resnet50, .*, got 'vgg'$"):
        unet(encoder="vgg")


# ---- encoder weights ---------------------------------------------------------------------------------------------


def same_encoder(model, state):
    mine = model.encoder.state_dict()
    return all(torch.equal(mine[name], tensor) for name, tensor in state.items() if not name.startswith("fc."))


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path, form):
    """torchvision's state dict, including the classifier."""
    from torchvision.models import resnet18

    state = resnet18(weights=None).state_dict()
    file = tmp_path / f"encoder.{form}"
    save_file(state, file) if form == "safetensors" else torch.save(state, file)
    assert same_encoder(unet(**SMALL, encoder_weights=str(file)), state)
    assert not same_encoder(unet(**SMALL), state)
    two = unet(1, 2, **SMALL, encoder_weights=str(file))
    assert two.encoder.conv1.weight.shape == (64, 2, 7, 7)
    assert torch.equal(two.encoder.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_refuses_weights_that_do_not_fit(tmp_path):
    file = tmp_path / "weights.safetensors"
    for content in ({"a": torch.zeros(1)}, None):
        file.write_bytes(b"no weights") if content is None else save_file(content, file)
        with pytest.raises(
            ValueError, match=r"^unet: encoder_weights must be a file with .*, got \S+/weights"
        ) as error:
            unet(**SMALL, encoder_weights=str(file))
        assert "\n" not in str(error.value)


def test_a_pickle_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("evil",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"^unet: encoder_weights must be a file with .*UnpicklingError"):
        unet(**SMALL, encoder_weights=str(tmp_path / "weights.pth"))


def test_refuses_unknown_weights():
    with pytest.raises(
        ValueError, match=r"^unet: encoder_weights of resnet18 must be a file or one of imagenet, .*'no'$"
    ):
        unet(**SMALL, encoder_weights="no")


@pytest.fixture
def hub(monkeypatch):
    """An empty cache and no internet. Returns the list of requests."""
    asked = []

    def fail(url, **more):
        asked.append(url)
        raise OSError("Name or service not known\nand a second line")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **more: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    return asked


def test_without_internet_fails_at_once_in_one_line(hub):
    with pytest.raises(
        ValueError, match=r"^unet: encoder_weights imagenet must be downloadable from smp-hub/"
    ) as error:
        unet(**SMALL, encoder_weights="imagenet")
    assert "\n" not in str(error.value)
    assert "name a file with encoder_weights=PATH" in str(error.value)
    assert len(hub) == 1


def test_makes_no_request_without_encoder_weights(hub):
    unet(**SMALL)
    assert not hub


def test_weights_from_the_hubs_cache(hub, monkeypatch, tmp_path):
    state = {f"{name}": tensor + 1 for name, tensor in unet(**SMALL).encoder.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def cached(**file):
        asked.append(file)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert same_encoder(unet(**SMALL, encoder_weights="imagenet"), state)
    assert {file["repo_id"] for file in asked} == {"smp-hub/resnet18.imagenet"}
    assert not hub
