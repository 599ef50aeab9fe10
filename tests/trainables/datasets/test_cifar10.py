import hashlib
import os
import pickle
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from trainables.data.errors import DataError
from trainables.datasets.cifar10 import cifar10

REAL = Path(os.environ.get("SPARSITY_SWEEPS_DATA") or Path(__file__).parents[4] / "shared" / "data") / "cifar10"


@pytest.mark.skipif(not (REAL / "train.parquet").exists(), reason=f"CIFAR-10 is not at {REAL} (SPARSITY_SWEEPS_DATA)")
@pytest.mark.slow
def test_real_data():
    data = cifar10(REAL)
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.train_labels).tolist() == [5000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    # The usual means of the channels of CIFAR-10. This copy is re-encoded as JPEG.
    means = data.train_images.mean(axis=(0, 2, 3)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)


@pytest.mark.parametrize("subfolder", [".", "data", "plain_text"])
@pytest.mark.parametrize("suffix", ["", "-00000-of-00001"])
def test_finds_the_hubs_files(cifar10_folder, pixels, subfolder, suffix):
    (cifar10_folder / subfolder).mkdir(exist_ok=True)
    for name in ("train", "test"):
        (cifar10_folder / f"{name}.parquet").rename(cifar10_folder / subfolder / f"{name}{suffix}.parquet")
    data = cifar10(str(cifar10_folder))
    np.testing.assert_array_equal(data.train_images, pixels[:10].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.test_images, pixels[10:].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == list(range(10))
    assert data.test_labels.tolist() == [3, 4]


def test_one_split_alone(cifar10_folder):
    (cifar10_folder / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"must hold both splits, got neither test\.parquet nor test-\*\.parquet"):
        cifar10(cifar10_folder)


@pytest.mark.parametrize(("name", "what"), [(".", "a folder without them"), ("nowhere", "no such folder")])
def test_no_data(tmp_path, name, what):
    with pytest.raises(
        DataError, match=f"must hold cifar-10-batches-py/, or train.parquet and .* got {what}"
    ) as caught:
        cifar10(tmp_path / name)
    message = str(caught.value)
    assert "\n" not in message
    for choice in ("leave --data-root out to download it", "name another folder", "python -m sweeps.digits"):
        assert choice in message


@pytest.fixture
def batches(tmp_path, pixels, monkeypatch):
    """torchvision's layout with two images per file; its md5 sums are replaced by those of these files."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    sums = []
    for number, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        images = pixels[2 * number : 2 * number + 2].transpose(0, 3, 1, 2)  # rows: 1024 red, green, blue values
        sums.append([name, write(name, {"data": images.reshape(2, 3072), "labels": [number, 9 - number]})])
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(
        CIFAR10, "meta", {**CIFAR10.meta, "md5": write("batches.meta", {"label_names": list("abcdefghij")})}
    )
    return folder


@pytest.mark.parametrize("name", [".", "..", "renamed"])
def test_reads_torchvisions_files(batches, pixels, name):
    root = batches.rename(batches.parent / "renamed") if name == "renamed" else batches / name
    data = cifar10(root)
    np.testing.assert_array_equal(data.train_images, pixels[:10].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.test_images, pixels[10:].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert data.test_labels.tolist() == [5, 4]


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_changed_pickles_are_not_opened(batches, tmp_path, file):
    trace = tmp_path / "was-opened"
    (batches / file).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(
        DataError, match="must hold torchvision's files with the md5 sums that it knows, got missing, truncated"
    ):
        cifar10(tmp_path)
    assert not trace.exists()


def test_missing_batch(batches, tmp_path):
    (batches / "data_batch_3").unlink()
    with pytest.raises(DataError, match="got missing, truncated or changed ones"):
        cifar10(tmp_path)


def test_no_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=re.escape("must be downloadable from https://www.cs.toronto.edu/")) as caught:
        cifar10()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("Name or service not known", "--data-root", "python -m sweeps.digits", str(tmp_path)):
        assert part in message
    assert not list((tmp_path / "sparsity-sweeps" / "cifar10").iterdir())


@pytest.fixture
def download(batches, tmp_path, monkeypatch):
    """torchvision's download copies `batches`. Returns the list of folders that it was called with."""
    made = []

    def copy(self):
        target = Path(self.root) / self.base_folder
        target.mkdir()
        for file in batches.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        made.append(target)

    monkeypatch.setattr(CIFAR10, "download", copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_downloads_once(download, tmp_path, pixels):
    for _ in range(2):
        data = cifar10()
        np.testing.assert_array_equal(data.test_images, pixels[10:].transpose(0, 3, 1, 2))
    assert len(download) == 1
    assert os.listdir(tmp_path / "cache" / "sparsity-sweeps" / "cifar10") == ["cifar-10-batches-py"]


def test_half_a_copy_is_not_taken_for_whole(download, tmp_path, pixels):
    cache = tmp_path / "cache" / "sparsity-sweeps" / "cifar10" / "cifar-10-batches-py"
    cache.mkdir(parents=True)
    (cache / "data_batch_1").write_bytes(b"half")
    np.testing.assert_array_equal(cifar10().test_images, pixels[10:].transpose(0, 3, 1, 2))
    assert len(download) == 1
