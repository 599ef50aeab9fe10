import huggingface_hub
import pytest
import torch

import sparsity
from tests.service._sweeps import make
from trainables.config import TrialConfig
from trainables.loop import load_task
from trainables.prunable import prunable_weights
from trainables.pruning import load_pruned, save_pruned

timm = pytest.importorskip("timm")


@pytest.fixture
def offline(monkeypatch):
    def fail(*args, **more):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **more: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)


def build(name, *args, **more):
    return sparsity.load("trainables.architectures", name)(*args, **more)


@pytest.mark.parametrize(("name", "channels"), [("timm/resnet10t", 1), ("timm/mobilenetv3_small_050", 3)])
def test_it_takes_the_datasets_channels_and_classes(name, channels):
    assert build(name, 7, channels).eval()(torch.randn(2, channels, 32, 32)).shape == (2, 7)


def test_arguments_go_to_timm():
    model = build("timm/vit_tiny_patch16_224", 4, 1, img_size=32, patch_size=8, depth=2)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    with pytest.raises(TypeError, match="no_such"):
        build("timm/resnet10t", 4, no_such=1)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("timm/resnet1O", {}, "^timm/resnet1O: must be a network of timm, such as .*resnet1"),
        ("timm/resnet18", {"pretrained": "yes"}, "^timm/resnet18: pretrained must be true or false, got 'yes'"),
        ("timm/resnet18", {"pretrained": True}, r"^timm/resnet18: pretrained weights must be downloadable from timm/"),
        ("timm/resnet10t", {"in_channels": 0}, "in_channels must be a whole number >= 1, got 0"),
    ],
)
def test_faults(offline, name, more, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, **more)


def test_a_checkpoint_does_not_read_pretrained_weights(offline, tmp_path):
    config = make(architecture="timm/resnet10t").trial
    task = load_task(config)
    model = task.build_model()
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in task.prunable(model).items()}
    task.model_arguments = {"pretrained": True}
    save_pruned(tmp_path / "0", task, model, masks, {})
    loaded = load_pruned(tmp_path / "0")
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_the_task_vit_prunes_the_linear_layers_but_the_classifier():
    fields = {"dataset": "digits", "max_epochs": 1, "target_sparsity": 0.5, "task": "vit"}
    arguments = {"img_size": 8, "patch_size": 4, "depth": 1}
    config = TrialConfig(architecture="timm/vit_tiny_patch16_224", model=arguments, **fields)
    task = load_task(config)
    names = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert list(prunable_weights(task, task.build_model(), config)) == [f"blocks.0.{name}.weight" for name in names]
    with pytest.raises(ValueError, match="vit: architecture must be a Vision Transformer, such as vit, or with prune"):
        load_task(config.model_copy(update={"task_args": {"prune": "qk"}})).build_model()
