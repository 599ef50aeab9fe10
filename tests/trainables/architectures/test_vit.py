import json
import socket

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from trainables.architectures.vit import read_checkpoint, vit

TINY = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "num_layers": 2, "num_heads": 3, "mlp_size": 20}


@pytest.fixture(scope="module")
def original():
    """The network in `checkpoint`: a ViT of transformers with a classifier of 7 classes."""
    torch.manual_seed(3)
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        num_labels=7,
    )
    return transformers.ViTForImageClassification(config).to(torch.bfloat16).eval()


@pytest.fixture
def checkpoint(original, tmp_path):
    folder = tmp_path / "checkpoint"
    original.save_pretrained(folder)
    processing = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "size": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return folder


@pytest.fixture
def offline(monkeypatch):
    """No internet. Returns the list of attempted addresses."""
    tried = []

    def refused(*args, **kwargs):
        tried.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    return tried


# ---- the network -------------------------------------------------------------------------------------------------


def test_parameter_count_of_vit_b_32():
    # Dosovitskiy et al., table 1: ViT-Base has 12 layers, hidden size 768, MLP size 3072, 86M parameters (with 16x16
    # patches; 32x32 ones make the embedding 3 * 768 * (32^2 - 16^2) larger and leave 7 * 7 positions of 14 * 14).
    block = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 2 * (768 + 768)
    embeddings = 3 * 32 * 32 * 768 + 768 + 768 + (7 * 7 + 1) * 768
    by_hand = embeddings + 12 * block + (768 + 768) + 768 * 100 + 100
    with torch.device("meta"):  # shapes without memory
        model = vit(100)
    assert sum(p.numel() for p in model.parameters()) == by_hand == 87_532_132
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_forward_matches_transformers():
    torch.manual_seed(0)
    model = vit(5, 1, **TINY).eval()
    theirs = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            image_size=16,
            patch_size=8,
            num_channels=1,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=20,
            num_labels=5,
        )
    ).eval()
    theirs.load_state_dict(model.state_dict())  # all names are the same
    images = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images).logits)
    assert not torch.equal(model(images), model(images.flip(3)))


@pytest.mark.parametrize("shape", [(8, 8), (13, 13), (40, 40), (24, 32)])
def test_images_of_other_sizes_are_resized_as_pillow_does(shape):
    """Pillow's bilinear filter is antialiased where an image shrinks."""
    model = vit(5, 1, **TINY).eval()
    seen = []
    model.vit.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = np.random.default_rng(0).standard_normal((3, 1, *shape)).astype(np.float32)
    model(torch.from_numpy(images))
    expected = [np.asarray(Image.fromarray(image[0]).resize((16, 16), Image.Resampling.BILINEAR)) for image in images]
    np.testing.assert_allclose(seen[0][:, 0], expected, atol=1e-5)


def test_projections_are_the_linear_layers_of_the_blocks():
    """By shape and position. mlp_size differs from the other sizes, so that a confusion of roles shows."""
    model = vit(5, **TINY)
    found = model.projections()
    assert {role: [tuple(layer.weight.shape) for layer in layers] for role, layers in found.items()} == {
        **{role: [(12, 12)] * 2 for role in ("query", "key", "value", "projection")},
        "ffn": [(20, 12), (12, 20)] * 2,
    }
    layers = [layer for layers in found.values() for layer in layers]
    assert len(set(layers)) == len(layers) == 12
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert set(linears) - set(layers) == {model.classifier}


@pytest.mark.parametrize("role", ["query", "key", "value", "projection"])
def test_projections_have_the_right_roles(role):
    """Attention without query or key is a plain mean of the values; without value or projection it adds nothing.

    Biases start at 0.
    """
    model = vit(5, **TINY).eval()
    found = {name: layers[0] for name, layers in model.projections().items()}
    tokens = torch.randn(2, 5, 12)
    with torch.no_grad():
        found[role].weight.zero_()
        out, _ = next(m for m in model.modules() if type(m).__name__ == "ViTAttention")(tokens)
        mean = found["value"](tokens).mean(1, keepdim=True).expand(-1, 5, -1)
        torch.testing.assert_close(out, found["projection"](mean))
    assert out.any() == (role in ("query", "key"))


def test_dropout_acts_in_training_only():
    model = vit(5, **TINY, dropout=0.5)
    images = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30, "patch_size": 4}, "image_size must be a multiple of patch_size 4, got 30"),
        ({"hidden_size": 10}, "hidden_size must be a multiple of num_heads 3, got 10"),
        ({"num_layers": 0}, "num_layers must be a whole number >= 1, got 0"),
        ({"mlp_size": 2.5}, "mlp_size must be a whole number >= 1, got 2.5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_refuses_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=f"^vit: {message}$"):
        vit(5, **{**TINY, **arguments})


# ---- pretrained encoders -----------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_as_float32(original, checkpoint):
    read = read_checkpoint(str(checkpoint))
    assert read.sizes == TINY
    assert (read.mean, read.std) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    theirs = original.vit.state_dict()
    assert set(read.weights) == set(theirs)
    for name, weight in read.weights.items():
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, theirs[name].float())
    model = vit(5, **read.sizes).eval()
    model.vit.load_state_dict({name: torch.from_numpy(weight) for name, weight in read.weights.items()})
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = original.float().vit(images).last_hidden_state
        torch.testing.assert_close(model.vit(images).last_hidden_state, expected)
    original.to(torch.bfloat16)


def test_reads_the_published_layout_of_an_encoder(original, checkpoint):
    """As google/vit-base-patch32-224-in21k: no prefix, names of older versions, a pooler, no preprocessor config."""
    older = {"layers.": "encoder.layer.", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    older |= {f"{short}_proj": f"attention.{long}" for short, long in (("q", "query"), ("k", "key"), ("v", "value"))}
    older |= {"o_proj": "output.dense"}
    state = {}
    for name, tensor in original.vit.state_dict().items():
        for new, old in older.items():
            name = name.replace(new, old)
        state[name] = tensor.float()
    assert "encoder.layer.1.attention.attention.query.weight" in state
    state |= {"pooler.dense.weight": torch.zeros(12, 12), "pooler.dense.bias": torch.zeros(12)}
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})
    (checkpoint / "preprocessor_config.json").unlink()
    read = read_checkpoint(str(checkpoint))
    assert (read.mean, read.std) == ([0.5] * 3, [0.5] * 3)
    for name, tensor in original.vit.state_dict().items():
        np.testing.assert_array_equal(read.weights[name], tensor.float())


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def without_a_weight(folder):
    state = load_file(folder / "model.safetensors")
    del state["vit.encoder.layer.1.attention.attention.key.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def truncated(name):
    def cut(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: rewrite(folder, model_type="resnet"), r"must be a ViT .*, got \S+ of model_type resnet"),
        (lambda folder: rewrite(folder, model_type=None), r"must be a ViT .*, got \S+ of model_type None"),
        (lambda folder: rewrite(folder, hidden_act="relu"), r"must have hidden_act gelu .*, got \S+ with relu"),
        (
            lambda folder: rewrite(folder, hidden_size=24),
            r"must have every weight .*, got \S+ without .* \(36 in all\)",
        ),
        (lambda folder: rewrite(folder, hidden_size="big"), r"must be readable, got \S+ \(.*\)"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"must be readable, got \S+ \(.*\)"),
        (
            without_a_weight,
            r"must have every weight .*, got \S+ without layers\.1\.attention\.k_proj\.weight .* \(1 in all\)",
        ),
        (truncated("model.safetensors"), r"must be readable, got \S+ \(.*\)"),
        (truncated("config.json"), r"must be readable, got \S+ \(JSONDecodeError: .*\)"),
        (truncated("preprocessor_config.json"), r"must be readable, got \S+ \(JSONDecodeError: .*\)"),
    ],
)
def test_refuses_bad_checkpoints_in_one_line(checkpoint, offline, damage, message):
    damage(checkpoint)
    with pytest.raises(ValueError, match=f"^model: pretrained {message}$") as caught:
        read_checkpoint(str(checkpoint))
    assert "\n" not in str(caught.value)
    assert not offline
