import json

import numpy as np
import pytest
import torch

from service.records.exported import read_export
from tests.trainables._tiny_tasks import equal_states
from trainables import load_pruned
from trainables.pruning import read_description
from trainables.pruning.exporting import export, folder
from trainables.pruning.exporting.formats.onnx import ONNX


@pytest.mark.slow
def test_an_exported_folder_has_all_formats_and_loads_again(checkpoint, tmp_path):
    source = checkpoint("small_resnet")[1]
    to = tmp_path / "sub" / "exported"
    entry = export(source, to, formats=["safetensors", "torch-export", "onnx"], dense=source, num_runs=3)
    files = {"config.json", "model.safetensors", "model.pt2", "model.onnx"}
    assert {path.name for path in to.iterdir()} == files
    assert [path.name for path in to.parent.iterdir()] == ["exported"]
    assert equal_states(load_pruned(to), load_pruned(source))
    before, after = read_description(source), read_description(to)
    assert after.pop("export") == json.loads(json.dumps(entry))
    assert after == before
    assert entry["input"] == {"name": "images", "dtype": "uint8", "shape": [None, 1, 8, 8], "largest": 16}
    assert entry["output"] == {"name": "logits", "dtype": "float32", "shape": [None, 10]}
    for name, made in entry["formats"].items():
        assert made["bytes"] == (to / made["file"]).stat().st_size, name
        assert 0 <= made["largest_difference"] < 1e-5
    dense, pruned, shrunk = entry["costs"]
    assert [row["network"] for row in entry["costs"]] == ["dense", "pruned", "shrunk"]
    assert shrunk["macs"] <= pruned["macs"] == dense["macs"]
    assert all(pruned[f"{engine}_ms_{n}"] > 0 for engine in ("eager", "onnx") for n in (1, 64))


def test_sizes_and_operations_are_counted_exactly(checkpoint, tmp_path):
    """width 4, depth 1 on 8 x 8: convolutions 1 -> 4, 4 -> 4, 4 -> 4 of 3 x 3 at every pixel, a layer 4 -> 10."""
    source = checkpoint("small_resnet")[1]
    row, _ = export(source, tmp_path / "to", formats=["safetensors"], num_runs=1)["costs"]
    convolutions = 9 * (1 * 4 + 4 * 4 + 4 * 4)
    assert row["macs"] == 64 * convolutions + 40
    assert row["parameters"] == convolutions + 3 * 2 * 4 + 50
    zeros = sum(int((p == 0).sum()) for p in load_pruned(source).parameters())
    assert row["nonzero"] == row["parameters"] - zeros
    assert row["file_bytes"] == (tmp_path / "to" / "model.safetensors").stat().st_size
    assert row["gzip_bytes"] < row["file_bytes"]


@pytest.mark.parametrize("num_runs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_language_model_is_a_folder_for_transformers_and_for_us(checkpoint, tmp_path, num_runs):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task, source = checkpoint("causal_lm")
    to = tmp_path / "exported"
    entry = export(source, to, formats=["safetensors"], num_runs=num_runs)
    assert entry["notes"] == []
    assert ("costs" in entry) == bool(num_runs)
    ours = load_pruned(to)
    theirs, loading = AutoModelForCausalLM.from_pretrained(to, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert equal_states(ours, theirs)
    assert equal_states(ours, load_pruned(source))
    assert ours.lm_head.weight is ours.model.embed_tokens.weight  # tied, and written once
    tokens = torch.randint(0, 300, (2, 9))
    with torch.no_grad():
        assert torch.equal(ours(tokens).logits, theirs.eval()(tokens).logits)
    tokenizer = AutoTokenizer.from_pretrained(to)
    assert tokenizer.eos_token_id == task.data.end
    assert tokenizer.decode(tokenizer("good one")["input_ids"]) == "good one"
    config = json.loads((to / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])
    described = read_description(to)
    assert json.loads(json.dumps(entry)) == described.pop("export") == read_export(to)
    assert described == read_description(source)
    assert {path.name for path in to.iterdir()} == {path.name for path in source.iterdir()}


def test_a_sweep_can_start_from_an_exported_language_model(checkpoint, tmp_path):
    from trainables.architectures.causal_lm import causal_lm

    source = checkpoint("causal_lm")[1]
    export(source, tmp_path / "exported", formats=["safetensors"], num_runs=0)
    assert equal_states(causal_lm(base=str(tmp_path / "exported")), load_pruned(source))


def test_nothing_is_left_of_an_export_whose_file_differs(checkpoint, tmp_path, monkeypatch):
    run = ONNX.run
    monkeypatch.setattr(ONNX, "run", lambda self, where, inputs: [x * 1.001 for x in run(self, where, inputs)])
    with pytest.raises(ValueError, match=r"^export: outputs of onnx must differ from PyTorch's by at most 0\.0001 of"):
        export(checkpoint("small_resnet")[1], tmp_path / "to", formats=["onnx"], num_runs=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :1], r"must have the shape \(2, 3\) of PyTorch's, got \(2, 1\)"),
        (lambda x: x * np.nan, r"by at most .*, got nan"),
    ],
)
def test_wrong_outputs_are_refused(change, message):
    expected = torch.ones(2, 3)
    with pytest.raises(ValueError, match=rf"^export: outputs of toy {message}|outputs of toy .*{message}"):
        folder.largest_difference("toy", [change(expected)], [expected])


def test_a_network_without_finite_outputs_is_refused(checkpoint, tmp_path, rewritten):
    source = rewritten(std=[0.0])
    with pytest.raises(ValueError, match=r"^export: the network's outputs must be finite"):
        export(source, tmp_path / "to", num_runs=0)
    assert not (tmp_path / "to").exists()


def test_an_unknown_format_and_an_existing_folder_are_refused(checkpoint, tmp_path):
    source = checkpoint("small_resnet")[1]
    with pytest.raises(ValueError, match=r"^format: must be one of onnx, safetensors, torch-export, got 'pickle'$"):
        export(source, tmp_path / "to", formats=["pickle"])
    (tmp_path / "to").mkdir()
    with pytest.raises(FileExistsError, match=r"^folder: must not exist yet, got .*/to: remove it, or choose another"):
        export(source, tmp_path / "to")


def test_a_slow_network_is_measured_in_a_bounded_time(monkeypatch):
    from trainables.pruning.exporting import measuring

    clock = iter(np.arange(0, 1e4, 3.0))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    assert measuring.take_turns({"a": lambda: None}, 200, 10.0) == {"a": [3.0] * 3}
    monkeypatch.setattr(measuring, "SLOWEST_RUN", 2.0)
    assert measuring.take_turns({"a": lambda: None}, 200, 10.0) == {"a": []}
