import hashlib
import io
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import torchvision.datasets.utils
from PIL import Image

import trainables.datasets.tiny_imagenet as module
from trainables.data.errors import DataError
from trainables.datasets.tiny_imagenet import tiny_imagenet

WNIDS = ["n01443537", "n01629819", "n01641577"]


def decoded(data):
    """Decode with Pillow, RGB (3, 64, 64)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


@pytest.fixture
def files(encode):
    """Contents by path: two training images for each of three classes, one of them grey, and three of val."""
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    jpegs = [encode(image, "JPEG") for image in images]
    jpegs[3] = encode(images[3, :, :, 0], "JPEG")
    files = {"wnids.txt": "\n".join([WNIDS[2], WNIDS[0], WNIDS[1]]).encode()}  # not sorted, as published
    for i, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t10\t63\t58\n".encode()
        for k in range(2):
            files[f"train/{wnid}/images/{wnid}_{k}.JPEG"] = jpegs[2 * i + k]
    lines = [f"val_{k}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n" for k, label in ((0, 2), (2, 0), (1, 2))]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files |= {f"val/images/val_{k}.JPEG": jpegs[6 + k] for k in range(3)}
    files["test/images/test_0.JPEG"] = b"has no label and is not read"
    return files


@pytest.fixture(params=["folder", "zip"])
def write(request, tmp_path):
    """A function that writes contents by path to a folder or to the archive, and returns the root."""

    def write(files):
        shutil.rmtree(tmp_path / "root", ignore_errors=True)
        (tmp_path / "root").mkdir()
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "root" / "tiny-imagenet-200.zip", "w") as archive:
                for name, data in files.items():
                    archive.writestr(f"tiny-imagenet-200/{name}", data)
        else:
            for name, data in files.items():
                path = tmp_path / "root" / "tiny-imagenet-200" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return tmp_path / "root"

    return write


def test_reads_the_published_files(write, files):
    root = write(files)
    (inner,) = root.iterdir()
    for place in (root, inner):
        data = tiny_imagenet(str(place))
        assert data.num_classes == 3
        assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert data.test_labels.tolist() == [2, 0, 2]
        train = [decoded(files[f"train/{wnid}/images/{wnid}_{k}.JPEG"]) for wnid in WNIDS for k in range(2)]
        np.testing.assert_array_equal(data.train_images, train)
        assert (data.train_images[3, 0] == data.train_images[3, 2]).all()  # grey in all three channels
        np.testing.assert_array_equal(data.test_images, [decoded(files[f"val/images/val_{k}.JPEG"]) for k in (0, 2, 1)])


@pytest.mark.parametrize("test", ["valid", "test"])
def test_reads_the_hubs_files(tmp_path, encode, write_parquet, test):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    encoded = [encode(images[0], "JPEG"), encode(images[1, :, :, 0], "JPEG"), encode(images[2], "JPEG")]
    hub = tmp_path / "data"
    write_parquet(hub / "train-00000-of-00001-1359597a978bc4fa.parquet", encoded[:2] * 5, [0, 199] * 5, column="image")
    write_parquet(hub / f"{test}-00000-of-00001-70d52db3c749a935.parquet", encoded[2:], [7], column="image")
    data = tiny_imagenet(tmp_path)
    assert data.num_classes == 200
    assert [data.train_labels.tolist(), data.test_labels.tolist()] == [[0, 199] * 5, [7]]
    np.testing.assert_array_equal(data.train_images, [decoded(image) for image in encoded[:2] * 5])


IMAGE = "train/n01443537/images/n01443537_1.JPEG"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wnids.txt": b""}, "wnids.txt: must list one or more classes, each once, got 0 lines"),
        ({"wnids.txt": b"n01443537\nn01443537"}, "wnids.txt: must list one or more classes, each once, got 2 lines"),
        ({"wnids.txt": b"n0\nn01443537"}, "train/n0/images: must hold the images of the class, got no .JPEG file"),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn01443537\t0\nval_1.JPEG\tn99\t0\n"},
            r"val_annotations.txt, line 2: must be an image, a tab and a class of wnids.txt, got 'val_1.JPEG\tn99\t0'",
        ),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn01443537\t0\n"},
            "val/val_annotations.txt: must list each of val/images/*.JPEG once, got 1 lines for 3 images",
        ),
        (
            {"val/images/val_1.JPEG": None},
            "val/val_annotations.txt: must list each of val/images/*.JPEG once, got 3 lines for 2 images",
        ),
        ({"val/val_annotations.txt": None}, "val/val_annotations.txt: must be a readable "),
        ({IMAGE: b"no image"}, f"{IMAGE}: image must be a readable JPEG or PNG, got UnidentifiedImageError"),
        ({IMAGE: "cut"}, f"{IMAGE}: image must be a readable JPEG or PNG, got OSError"),
        ({IMAGE: "small"}, f"{IMAGE}: image must have shape (3, 64, 64) (channels, height, width)"),
    ],
)
def test_bad_data_is_refused(write, files, encode, changes, message):
    made = {"cut": files[IMAGE][:1000], "small": encode(np.zeros((32, 64, 3), np.uint8), "JPEG")}
    changes = {name: made.get(data, data) if isinstance(data, str) else data for name, data in changes.items()}
    root = write({name: data for name, data in (files | changes).items() if data is not None})
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        tiny_imagenet(root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


def test_damaged_archives(tmp_path, files):
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in files.items():
            file.writestr(f"tiny-imagenet-200/{name}", data)
    whole = archive.read_bytes()
    for bad in (b"", b"no zip", whole[: len(whole) // 2]):
        archive.write_bytes(bad)
        with pytest.raises(DataError, match=r"tiny-imagenet-200\.zip: must be a readable zip archive, got BadZipFile"):
            tiny_imagenet(archive)
    at = whole.index(files[IMAGE]) + 2000  # change one byte of a member
    archive.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(DataError, match=re.escape(f"{IMAGE}: must be a readable member, got BadZipFile")):
        tiny_imagenet(archive)


def test_an_archive_is_never_unpacked(tmp_path, files):
    """Members whose paths lead out of the folder are not read."""
    (tmp_path / "inner").mkdir()
    with zipfile.ZipFile(tmp_path / "inner" / "tiny-imagenet-200.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
        archive.writestr("../outside.JPEG", b"x")
        archive.writestr("/tmp/outside.JPEG", b"x")
    assert len(tiny_imagenet(tmp_path / "inner").train_images) == 6
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "tiny-imagenet-200.zip"]


@pytest.mark.parametrize(("name", "what"), [(".", "a folder without them"), ("nowhere", "no such folder")])
def test_no_data(tmp_path, name, what):
    message = rf"must hold tiny-imagenet-200/ \(with wnids.txt\) or tiny-imagenet-200.zip, or train.*, got {what}: "
    with pytest.raises(DataError, match=message) as caught:
        tiny_imagenet(tmp_path / name)
    assert "trainables.data.generate tiny_imagenet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_downloads_once_and_checks_the_md5_sum(tmp_path, files, monkeypatch):
    source = tmp_path / "source.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
    made = []

    def copy(url, root, filename=None, md5=None):
        os.makedirs(root)
        (root / url.rpartition("/")[2]).write_bytes(source.read_bytes())
        made.append(url)

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", copy)
    monkeypatch.setattr(module, "MD5", hashlib.md5(source.read_bytes()).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert tiny_imagenet().num_classes == 3
    assert made == ["http://cs231n.stanford.edu/tiny-imagenet-200.zip"]
