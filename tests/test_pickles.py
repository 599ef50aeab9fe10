"""Nothing that a stranger may have written is unpickled: a pickle that leaves a trace lies in every place that is read.

Beside these: Ray Tune's own files in a sweep's folder (faults/storage.py); CIFAR's own files, which are pickles and are
opened only with torchvision's checksums (test_cifar10.py, test_cifar100.py); archives, which are read in place, without
links and paths that lead out of them (test__archives.py).
"""

import contextlib
import io
import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import sparsity
from service.records.recorder import Recorder
from service.search.storage import open_storage
from service.tracking.shipper import Shipped, Shipper
from trainables import load_pruned
from trainables.architectures.causal_lm import causal_lm, network_config
from trainables.architectures.small_resnet import small_resnet
from trainables.architectures.unet import unet
from trainables.architectures.vit import read_checkpoint
from trainables.config import TrialConfig
from trainables.data.generate import generate
from trainables.data.tokens import read_tokenizer
from trainables.loop import load_task
from trainables.result import read_result
from trainables.runner import TrialRunner


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def plain(bomb, file):
    pickle.dump(bomb, file)


def by_torch(bomb, file):
    torch.save({"stem.weight": bomb}, file)


def by_old_torch(bomb, file):
    torch.save({"stem.weight": bomb}, file, _use_new_zipfile_serialization=False)


def by_numpy(bomb, file):
    np.save(file, np.array([bomb], dtype=object), allow_pickle=True)


def by_numpy_zipped(bomb, file):
    np.savez(file, X=np.array([bomb], dtype=object), y=np.zeros(1))


FORMS = [plain, by_torch, by_old_torch, by_numpy, by_numpy_zipped]


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__)
def bomb(request, tmp_path):
    """Bytes that leave a trace when they are unpickled; afterwards it is seen that nothing has."""
    trace = tmp_path / "unpickled"
    file = io.BytesIO()
    request.param(Bomb(trace), file)
    yield file.getvalue()
    assert not trace.exists()


def test_the_pickles_would_go_off(tmp_path):
    for form in FORMS:
        trace, file = tmp_path / form.__name__, io.BytesIO()
        form(Bomb(trace), file)
        file.seek(0)
        with contextlib.suppress(Exception):  # the folder is no weight
            if form in (by_torch, by_old_torch):
                torch.load(file, weights_only=False)
            elif form is plain:
                pickle.load(file)
            else:
                content = np.load(file, allow_pickle=True)
                content["X"]
        assert trace.exists(), form.__name__


# ---- what a sweep leaves and reads again -----------------------------------------------------------------------


CONFIG = TrialConfig(
    dataset="digits",
    architecture="small_resnet",
    model={"width": 4, "depth": 1},
    optimizer="sgd",
    opt={"lr": 0.1},
    regularizer="none",
    max_epochs=2,
    num_evaluations=2,
    batch_size=64,
    target_sparsity=0.5,
)


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt"])
def test_a_trials_checkpoint(tmp_path, bomb, name):
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / name).write_bytes(bomb)
    trial = TrialRunner(CONFIG, folder, lambda: load_task(CONFIG))
    assert trial.advance()["status"] == "running"
    assert trial.notes[0].startswith(f"{name}: could not be read")


def test_a_trials_result(tmp_path, bomb):
    (tmp_path / "result.json").write_bytes(bomb)
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pruned_checkpoint(tmp_path, bomb, name):
    arguments = {"num_classes": 10, "in_channels": 1, "width": 4, "depth": 1}
    save_file(small_resnet(**arguments).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "small_resnet", "model": arguments}))
    load_pruned(tmp_path)
    (tmp_path / name).write_bytes(bomb)
    with pytest.raises(ValueError, match=rf"{name} must "):
        load_pruned(tmp_path)


def test_the_event_log(tmp_path, bomb):
    (tmp_path / "events.jsonl").write_bytes(bomb + b"\n")
    with pytest.raises(ValueError, match=r"events\.jsonl: must hold one JSON object per line"):
        Recorder(tmp_path)


def test_the_study(tmp_path, bomb):
    (tmp_path / "study.log").write_bytes(bomb + b"\n")
    with pytest.raises(ValueError, match=r"."):
        open_storage(tmp_path / "study.log").get_all_studies()


def test_what_was_sent_to_mlflow(tmp_path, bomb):
    (tmp_path / "shipped.json").write_bytes(bomb)
    assert Shipper(tmp_path, "sqlite://").shipped == Shipped()  # all is sent once more, and nothing doubled


# ---- data ------------------------------------------------------------------------------------------------------


def load(name, root):
    return sparsity.load("trainables.datasets", name)(root=root)


def test_svhns_mat_files(tmp_path, bomb):
    generate("svhn", tmp_path / "svhn", num_train=20, num_test=10)
    file = next((tmp_path / "svhn").rglob("train_32x32.mat"))
    file.write_bytes(bomb)
    with pytest.raises(ValueError, match=r"train_32x32\.mat"):
        load("svhn", tmp_path / "svhn")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder", "svhn", "tiny_imagenet"])
def test_a_parquet_file_that_is_none(tmp_path, bomb, name):
    for split in ("train", "test", "valid"):
        (tmp_path / f"{split}.parquet").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"\.parquet: must be a readable parquet file"):
        load(name, tmp_path)


def test_a_parquet_column_of_a_pickled_type(tmp_path, bomb):
    """Arrow's type for Python's own ones was unpickled where it was read (CVE-2023-47248)."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([pa.field("img", image, metadata=metadata), pa.field("label", pa.int64(), metadata=metadata)])
    table = pa.table({"img": [{"bytes": bomb, "path": None}], "label": [0]}, schema=schema)
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_an_image(tmp_path, bomb, suffix):
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / f"0.{suffix}").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"."):
        load("folder", tmp_path)


# ---- weights that others have trained --------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    """A language model's folder, as the hub has them, but for its weights."""
    model = causal_lm(base="tiny-qwen2", vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)
    folder = tmp_path / "base"
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(network_config(model)))
    causal_lm(base=str(folder))
    return folder


def only_pickled(folder, bomb):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bomb)


def under_the_name_of_safetensors(folder, bomb):
    (folder / "model.safetensors").write_bytes(bomb)


def by_way_of_the_index(folder, bomb):
    (folder / "model.safetensors").rename(folder / "of-something-else.safetensors")
    (folder / "weights.bin").write_bytes(bomb)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "weights.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def as_its_configuration(folder, bomb):
    (folder / "config.json").write_bytes(bomb)


PLANTED = [only_pickled, under_the_name_of_safetensors, by_way_of_the_index, as_its_configuration]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_language_models_weights(base, bomb, plant):
    plant(base, bomb)
    with pytest.raises(ValueError, match=r"^model: base must "):
        causal_lm(base=str(base))


@pytest.mark.parametrize("weights", ["adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_beside_a_language_model(base, bomb, weights):
    """transformers looks for one by itself, and by itself opens a pickled one."""
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "target_modules": ["q_proj"]}
    (base / "adapter_config.json").write_text(json.dumps(config | {"task_type": "CAUSAL_LM"}))
    (base / weights).write_bytes(bomb)
    with pytest.raises(ValueError, match=r"^model: base must be a causal language model"):
        causal_lm(base=str(base))


def test_a_tokenizer(base, bomb):
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"):
        (base / name).write_bytes(bomb)
    with pytest.raises(ValueError, match=r"^model: base must have a tokenizer\.json"):
        read_tokenizer(base)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_vits_weights(tmp_path, bomb, plant):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes), add_pooling_layer=False)
    folder = tmp_path / "vit"
    encoder.save_pretrained(folder)
    read_checkpoint(str(folder))
    plant(folder, bomb)
    with pytest.raises(ValueError, match=r"^model: pretrained must "):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin", "weights.safetensors"])
def test_an_encoders_weights(tmp_path, bomb, name):
    (tmp_path / name).write_bytes(bomb)
    with pytest.raises(ValueError, match=r"^unet: encoder_weights must be a file with "):
        unet(encoder="resnet18", decoder_width=1, encoder_weights=str(tmp_path / name))
