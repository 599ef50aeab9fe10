import hashlib
import pickle
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from trainables.data.errors import DataError
from trainables.datasets.cifar100 import cifar100

FINE = [0, 99, 7, 50, 1, 2, 3, 4, 5, 6]  # labels of the first ten images; the last two have 98 and 0


@pytest.fixture
def binary(tmp_path, pixels):
    """The binary version: a byte for the superclass, one for the class, then three planes of 1024."""
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    planes = pixels.transpose(0, 3, 1, 2)
    for name, images, labels in (("train.bin", planes[:10], FINE), ("test.bin", planes[10:], [98, 0])):
        records = [bytes([label // 5, label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
        (folder / name).write_bytes(b"".join(records))
    return folder


@pytest.fixture
def batches(tmp_path, pixels, monkeypatch):
    """torchvision's layout; its md5 sums are replaced by those of these files."""
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    planes = pixels.transpose(0, 3, 1, 2).reshape(12, 3072)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def split(rows, labels):
        return {"data": planes[rows], "fine_labels": labels, "coarse_labels": [label // 5 for label in labels]}

    monkeypatch.setattr(CIFAR100, "train_list", [["train", write("train", split(slice(10), FINE))]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", write("test", split(slice(10, 12), [98, 0]))]])
    names = {"fine_label_names": [str(k) for k in range(100)]}
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": write("meta", names)})
    return folder


def check(data, pixels):
    np.testing.assert_array_equal(data.train_images, pixels[:10].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.test_images, pixels[10:].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == FINE
    assert data.test_labels.tolist() == [98, 0]
    assert data.num_classes == 100


@pytest.mark.parametrize("name", [".", ".."])
def test_reads_the_binary_version(binary, pixels, name):
    check(cifar100(binary / name), pixels)


@pytest.mark.parametrize("name", [".", ".."])
def test_reads_torchvisions_files(batches, pixels, name):
    check(cifar100(batches / name), pixels)


@pytest.mark.parametrize("subfolder", [".", "data", "cifar100"])
def test_reads_the_hubs_files(tmp_path, pixels, encode, write_parquet, subfolder):
    for name, part, labels in (("train", pixels[:10], FINE), ("test", pixels[10:], [98, 0])):
        file = tmp_path / subfolder / f"{name}-00000-of-00001.parquet"
        write_parquet(file, [encode(image) for image in part], labels, label="fine_label")
    check(cifar100(tmp_path), pixels)


def test_a_parquet_file_of_cifar10_is_none(cifar10_folder):
    with pytest.raises(DataError, match=r"train.parquet: must have the columns img \(or image\) and fine_label, got"):
        cifar100(cifar10_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "must hold one or more whole records of 3074 bytes, got 30739 bytes"),
        (lambda data: b"", "must hold one or more whole records of 3074 bytes, got 0 bytes"),
        (lambda data: b"\x14" + data[1:], "coarse labels must be from 0 to 19, got 20 in record 0"),
        (lambda data: data[:3075] + b"\x64" + data[3076:], "fine labels must be from 0 to 99, got 100 in record 1"),
        (lambda data: data[:3074] + b"\x01" + data[1:3074], "each fine label must have one coarse label, got 0 with "),
    ],
)
def test_wrong_contents(binary, change, message):
    file = binary / "train.bin"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=re.escape(f"train.bin: {message}")):
        cifar100(binary)


def test_one_file_of_the_binary_version_missing(binary):
    (binary / "test.bin").unlink()
    for root in (binary, binary.parent):
        with pytest.raises(DataError, match=r"test\.bin: must be a readable file, got FileNotFoundError"):
            cifar100(root)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_changed_pickles_are_not_opened(batches, tmp_path, file):
    trace = tmp_path / "was-opened"
    (batches / file).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(DataError, match=r"cifar100: .* must hold torchvision's files with the md5 sums that"):
        cifar100(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(("name", "what"), [(".", "a folder without them"), ("nowhere", "no such folder")])
def test_no_data(tmp_path, name, what):
    message = rf"must hold cifar-100-python/ or cifar-100-binary/, or train.parquet and .* or cifar100/\), got {what}: "
    with pytest.raises(DataError, match=message) as caught:
        cifar100(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_no_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    message = "cifar100: the data must be downloadable from https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    with pytest.raises(DataError, match=message):
        cifar100()
    assert not list((tmp_path / "sparsity-sweeps" / "cifar100").iterdir())
