import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import trainables
from tests.trainables._tiny_tasks import convolutions
from trainables.pruning import checkpoint, evaluate_pruned, load_pruned, save_pruned


@pytest.fixture
def folder(trained, tiny, tmp_path):
    """A checkpoint pruned at 0.9, with its recorded validation metrics."""
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(), (0.9,), "validation")
    save_pruned(tmp_path / "0.9", task, model, evaluation.masks[0.9], {"validation": evaluation.metrics[0.9]})
    return tmp_path / "0.9"


def test_saved_model_loads_as_a_plain_model_of_the_same_accuracy(folder, trained):
    """Read the files with NumPy, and load a plain model that predicts as recorded."""
    task, model = trained
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["0.9"]
    config = json.loads((folder / "config.json").read_text())
    arrays = load_file(folder / "model.safetensors")
    names = list(convolutions(model))
    assert config["prunable"] == names
    num_weights = sum(arrays[name].size for name in names)
    num_zeros = sum(int((arrays[name] == 0).sum()) for name in names)
    assert num_zeros == round(0.9 * num_weights)
    assert config["prunable_sparsity"] == num_zeros / num_weights
    parameters = {name for name, _ in model.named_parameters()}
    zeros = sum(int((arrays[name] == 0).sum()) for name in parameters)
    assert config["model_sparsity"] == zeros / sum(arrays[name].size for name in parameters)
    for name, tensor in model.state_dict().items():
        kept = arrays[name] != 0 if name in names else ...
        np.testing.assert_array_equal(arrays[name][kept], tensor.numpy()[kept])

    loaded = trainables.load_pruned(str(folder))
    assert not loaded.training
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in loaded.state_dict().items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in model.state_dict().items()
    }
    images = task.data.train_images[task.data.split()[1]]
    prepare = config["input"]
    assert prepare["layout"] == "NCHW"
    x = (images / prepare["divide_by"] - np.reshape(prepare["mean"], (1, -1, 1, 1))) / np.reshape(
        prepare["std"], (1, -1, 1, 1)
    )
    with torch.no_grad():
        predicted = loaded(torch.from_numpy(x).float()).argmax(1).numpy()
    labels = task.data.train_labels[task.data.split()[1]]
    assert config["validation"]["acc"] == pytest.approx((predicted == labels).mean(), abs=1e-12)
    assert task.evaluate(loaded, "validation") == config["validation"]


def test_removed_weights_are_positive_zeros(folder, trained):
    """Negative zeros would compress worse."""
    arrays = load_file(folder / "model.safetensors")
    assert not any(np.signbit(arrays[name][arrays[name] == 0]).any() for name in convolutions(trained[1]))


def test_saving_replaces_the_folder_and_does_not_change_the_model(folder, trained, tiny):
    task, model = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (folder / "stray").write_text("")
    masks = evaluate_pruned(task, model, tiny(), (0.3,), "validation").masks[0.3]
    save_pruned(folder, task, model, masks, {})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["prunable_sparsity"] == pytest.approx(0.3, abs=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("failing", ["save_file", "json.dumps"])
def test_failed_write_leaves_the_old_checkpoint(folder, trained, monkeypatch, failing):
    task, model = trained
    masks = {name: weight != 0 for name, weight in convolutions(model).items()}

    def fails(*args, **kwargs):
        raise OSError("No space left on device")

    old = (folder / "config.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(f"trainables.pruning.checkpoint.{failing}", fails)
        for target in (folder, folder.with_name("new")):
            with pytest.raises(OSError, match="No space left"):
                save_pruned(target, task, model, masks, {})
    assert [path.name for path in folder.parent.iterdir()] == ["0.9"]
    assert (folder / "config.json").read_text() == old
    load_pruned(folder)


def test_partial_folder_of_a_killed_process_is_replaced(folder, trained, monkeypatch):
    task, model = trained
    monkeypatch.setattr(checkpoint.os, "getpid", lambda: 7)
    partial = folder.with_name("new.7.partial")
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    masks = {name: weight != 0 for name, weight in convolutions(model).items()}
    save_pruned(folder.with_name("new"), task, model, masks, {})
    assert sorted(path.name for path in folder.parent.iterdir()) == ["0.9", "new"]
    load_pruned(folder.with_name("new"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / name))):
        load_pruned(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_truncated_file_is_named(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}: {name} must [^\n]*, got [^\n]+$"):
        load_pruned(folder)


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"num_classes": 10, "in_channels": 1, "width": 6, "depth": 2}},
            r"model\.safetensors must hold the weights of small_resnet \{.*'width': 6.*\}, got .*size mismatch.*",
        ),
        ({"model": {"num_classes": 10, "in_channels": 1, "depth": 1}}, r"model\.safetensors must hold .*"),
        ({"model": {"num_classes": 10, "girth": 2}}, r"model: arguments of small_resnet must be among .*, got 'girth'"),
        ({"model": "small"}, r"config\.json must be JSON with architecture and model, got .*"),
        ({"architecture": "vgg"}, r"architectures: name must be one of .*resnet18.*, got 'vgg'"),
    ],
)
def test_mismatched_files_are_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=f"^({re.escape(str(folder))}: )?{message}$") as caught:
        load_pruned(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"architecture": "small_resnet"}', "null", "\udcff"])
def test_other_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r": config\.json must be JSON with architecture and model, got [^\n]*$"):
        load_pruned(folder)


def test_nothing_is_unpickled(folder, tmp_path, monkeypatch):
    """A pickle named like the weights is refused and not executed."""

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"model\.safetensors must hold the weights"):
        load_pruned(folder)
    torch.save(Bomb(), folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors must hold the weights"):
        load_pruned(folder)
    assert not (tmp_path / "executed").exists()


def test_checkpoint_can_be_moved(folder, trained, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert trained[0].evaluate(load_pruned(tmp_path / "elsewhere"), "validation")["acc"] >= 0
