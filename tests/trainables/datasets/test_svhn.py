import hashlib
import os
import re
import urllib.error
import urllib.request

import numpy as np
import pytest
import torchvision.datasets.svhn as torchvision_svhn
from scipy.io import savemat

from trainables.data.errors import DataError
from trainables.datasets.svhn import svhn
from trainables.tasks.cnn import CNN, LoadedImages


@pytest.fixture
def write_mat(tmp_path):
    """A function that writes images (N, 32, 32, 3) and labels as published: X is (32, 32, 3, N), y is (N, 1)."""

    def write(name, images, labels, **more):
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels, np.uint8)[:, None], **more}
        savemat(tmp_path / name, {key: value for key, value in content.items() if value is not None})
        return tmp_path / name

    return write


@pytest.fixture
def mat_folder(tmp_path, pixels, write_mat):
    write_mat("train_32x32.mat", pixels[:10], range(1, 11))
    write_mat("test_32x32.mat", pixels[10:], [10, 4])
    return tmp_path


def test_reads_the_published_files(mat_folder, pixels):
    data = svhn(str(mat_folder))
    np.testing.assert_array_equal(data.train_images, pixels[:10].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.test_images, pixels[10:].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # the label 10 is the digit 0
    assert data.test_labels.tolist() == [0, 4]


@pytest.mark.parametrize("subfolder", [".", "data", "cropped_digits"])
def test_reads_the_hubs_files(tmp_path, pixels, encode, write_parquet, subfolder):
    for name, part, labels in (("train", pixels[:10], range(10)), ("test", pixels[10:], [0, 4])):
        file = tmp_path / subfolder / f"{name}-00000-of-00001.parquet"
        write_parquet(file, [encode(image) for image in part], labels, column="image")
    data = svhn(tmp_path)
    np.testing.assert_array_equal(data.train_images, pixels[:10].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == list(range(10))
    assert data.test_labels.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"X": None}, "float64 (0,)"),
        ({"X": np.zeros((32, 32, 3, 2))}, "float64 (32, 32, 3, 2)"),
        ({"X": np.zeros((2, 32, 32, 3), np.uint8)}, "uint8 (2, 32, 32, 3)"),
        ({"y": None}, "0 labels"),
        ({"y": [[1]]}, "1 labels from 1 to 1"),
        ({"y": [[0], [9]]}, "2 labels from 0 to 9"),
        ({"y": [[1], [11]]}, "2 labels from 1 to 11"),
        ({"y": [[1.5], [2]]}, "2 labels from 1.5 to 2.0"),
    ],
)
def test_wrong_contents(mat_folder, pixels, write_mat, changes, got):
    write_mat("test_32x32.mat", pixels[10:], [1, 2], **changes)
    rules = {
        "X": "X must be uint8 of shape (32, 32, 3, number of images)",
        "y": "y must be a label from 1 to 10 (10 is the digit 0) for each of 2 images",
    }
    with pytest.raises(DataError, match=re.escape(f"test_32x32.mat: {rules[next(iter(changes))]}, got {got}") + "$"):
        svhn(mat_folder)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", None])
def test_damaged_file(mat_folder, content):
    file = mat_folder / "train_32x32.mat"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(DataError, match=r"train_32x32\.mat: must be a readable MATLAB file, got") as caught:
        svhn(mat_folder)
    assert "\n" not in str(caught.value)


def test_one_file_missing(mat_folder):
    (mat_folder / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"test_32x32\.mat: must be a readable MATLAB file, got FileNotFoundError"):
        svhn(mat_folder)


@pytest.mark.parametrize(("name", "what"), [(".", "a folder without them"), ("nowhere", "no such folder")])
def test_no_data(tmp_path, name, what):
    message = f"must hold train_32x32.mat and test_32x32.mat, or train.parquet and .* cropped_digits/.*, got {what}: "
    with pytest.raises(DataError, match=message) as caught:
        svhn(tmp_path / name)
    assert "\n" not in str(caught.value)
    for choice in ("leave --data-root out to download it", "name another", "-m trainables.data.generate svhn"):
        assert choice in str(caught.value)


def test_downloads_once_and_checks_the_md5_sums(mat_folder, tmp_path, monkeypatch):
    made = []

    def copy(url, root, filename, md5):
        os.makedirs(root, exist_ok=True)
        (root / filename).write_bytes((mat_folder / filename).read_bytes())
        made.append(url)

    sums = {
        split: [url, name, hashlib.md5((mat_folder / name).read_bytes()).hexdigest()]
        for split, (url, name, _) in torchvision_svhn.SVHN.split_list.items()
        if split != "extra"
    }
    monkeypatch.setattr(torchvision_svhn.SVHN, "split_list", sums)
    monkeypatch.setattr(torchvision_svhn, "download_url", copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert svhn().test_labels.tolist() == [0, 4]
    assert [url.rpartition("/")[2] for url in made] == ["train_32x32.mat", "test_32x32.mat"]
    cache = tmp_path / "cache" / "sparsity-sweeps" / "svhn"
    assert os.listdir(cache) == ["cropped_digits"]
    (cache / "cropped_digits" / "test_32x32.mat").write_bytes(b"changed")
    assert svhn().test_labels.tolist() == [0, 4]
    assert len(made) == 4


def test_no_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    message = "svhn: the data must be downloadable from http://ufldl.stanford.edu/housenumbers/train_32x32.mat"
    with pytest.raises(DataError, match=message) as caught:
        svhn()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "sparsity-sweeps" / "svhn").iterdir())


def test_training_crops_digits_and_never_mirrors_them(mat_folder, tiny):
    """The left half is white. However the image is shifted, white is never to the right of black."""
    data = svhn(mat_folder)
    data.train_images[:, :, :, :16], data.train_images[:, :, :, 16:] = 255, 0
    task = CNN(tiny(dataset="svhn", train_size=None), LoadedImages(data, [0.0] * 3, [1.0] * 3))
    batches = [batch for seed in range(20) for batch, _ in task.batches("train", 3, seed=seed)]
    assert len(batches) == 60
    white = [image[:, :, 4:].sum().item() for batch in batches for image in batch]
    assert len(set(white)) > 20  # 9 x 9 positions
    assert all(image[:, :, 20:].max() == 0 and image[:, 8, 8].min() == 1 for batch in batches for image in batch)
