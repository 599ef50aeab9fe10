import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainables.architectures.causal_lm import causal_lm, network_config

SMALL = {"vocab_size": 300, "hidden_size": 16, "num_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint that transformers wrote, in bfloat16."""
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    causal_lm(base="tiny-llama", **SMALL).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize(("base", "num_biases"), [("tiny-qwen2", 64 + 32 + 32), ("tiny-llama", 0)])
def test_tiny_networks_have_the_weights_counted_by_hand(base, num_biases):
    model = causal_lm(base=base)
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64  # 4 heads of width 16, 2 heads of keys and values
    ffn = 3 * 64 * 256
    expected = 2048 * 64 + 2 * (attention + ffn + 2 * 64 + num_biases) + 64  # the head shares the embedding
    assert sum(p.numel() for p in model.parameters()) == expected
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, 2048)
    assert logits.std() > 1  # with the initialization of transformers it is 0.16


def test_published_networks_have_their_published_sizes():
    """Built on the meta device from their config.json on the hub."""
    shared = {"tie_word_embeddings": True, "max_position_embeddings": 131072}
    qwen = {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    }
    llama = {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    }
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in causal_lm(config={**shared, **c}).parameters()) for c in (qwen, llama)]
    assert sizes == [1_543_714_304, 1_235_814_400]


@pytest.mark.parametrize("base", ["tiny-qwen2", "tiny-llama"])
def test_the_configuration_rebuilds_the_network(base):
    model = causal_lm(base=base, **SMALL)
    config = network_config(model)
    again = causal_lm(config=json.loads(json.dumps(config)))
    again.load_state_dict(model.state_dict())
    tokens = torch.randint(0, 300, (2, 9))
    assert torch.equal(again.eval()(tokens).logits, model.eval()(tokens).logits)


def test_a_checkpoint_is_read_as_float32(folder):
    model = causal_lm(base=str(folder))
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in stored.items())
    again = causal_lm(config=network_config(model))  # although the configuration says bfloat16
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_the_seed_determines_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(causal_lm(base="tiny-qwen2", **SMALL).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "/nowhere"}, r"model: base must be a folder or a name on the Hugging Face hub, got '/nowhere': .*"),
        ({"hidden_size": 64}, r"model: hidden_size must be left out unless base is one of tiny-qwen2, .*, got 64"),
        ({"base": "tiny-llama", "num_layers": 0}, r"causal_lm: num_layers must be a whole number >= 1, got 0"),
        ({"base": "tiny-llama", "num_heads": 3}, r"causal_lm: num_heads must be even \(.*\), got 3"),
        ({"base": "tiny-llama", "hidden_size": 20}, r"causal_lm: hidden_size must be a multiple of 8 \(.*\), got 20"),
        ({"config": {"model_type": "nothing"}}, r"model: config must be that of a causal language model, got .*"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$") as error:
        causal_lm(**arguments)
    assert len(str(error.value)) < 400


def test_refuses_bad_checkpoints_in_one_line(folder, tmp_path):
    def copied(name):
        copy = tmp_path / name
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        return copy

    def message(path):
        with pytest.raises(ValueError, match=r"^model: base must ") as error:
            causal_lm(base=str(path))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500
        return str(error.value)

    assert "without config.json" in message(tmp_path)
    without = copied("without")
    (without / "model.safetensors").unlink()
    assert "without *.safetensors" in message(without)
    cut = copied("cut")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    assert "must be a causal language model" in message(cut)
    lacking = copied("lacking")
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if "q_proj" not in n}, lacking / "model.safetensors", {"format": "pt"})
    assert "without model.layers.0.self_attn.q_proj.weight" in message(lacking)
    other = copied("other")
    (other / "config.json").write_text('{"model_type": "nothing"}')
    assert "must be a causal language model" in message(other)


def test_without_internet_a_name_is_refused_at_once(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"^model: base must be .* downloadable, got 'Qwen/Qwen2.5-1.5B' \(.*\): .*$"):
        causal_lm()
    assert time.monotonic() - begin < 5
