import pickle
import re
import zipfile

import numpy as np
import pytest

from tests.trainables.datasets.test_folder import planes
from trainables.config import TrialConfig
from trainables.data.errors import DataError
from trainables.data.splits import split_indices
from trainables.datasets.npz import npz
from trainables.tasks.cnn import CNN

LABELS = np.arange(12) % 3


@pytest.fixture
def save(tmp_path):
    """A function that writes arrays to an .npz file and returns its path."""

    def save(**arrays):
        np.savez_compressed(tmp_path / "mine.npz", **arrays)
        return tmp_path / "mine.npz"

    return save


# ---- reading -----------------------------------------------------------------------------------------------------


def test_reads_both_splits(npz_file, pixels):
    data = npz(str(npz_file))
    np.testing.assert_array_equal(data.train_images, planes(pixels[:10]))
    np.testing.assert_array_equal(data.test_images, planes(pixels[10:]))
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1] * 5, [0, 1])
    assert (data.num_classes, data.max_value, data.augmentation) == (2, 255, "none")
    np.testing.assert_array_equal(npz(npz_file.parent).train_images, data.train_images)


def test_a_plain_pair_has_a_fixed_fifth_held_out(save, pixels):
    data = npz(save(images=pixels, labels=LABELS), validation_fraction=0.25)
    train, test = split_indices(12, 0.2)
    np.testing.assert_array_equal(data.train_images, planes(pixels)[train])
    np.testing.assert_array_equal(data.test_images, planes(pixels)[test])
    assert data.test_labels.tolist() == LABELS[test].tolist()
    assert [len(part) for part in data.split()] == [8, 2]


def test_a_file_like_medmnist_validates_on_its_own_images(save, pixels):
    parts = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 12)}
    arrays = {f"{name}_images": pixels[rows] for name, rows in parts.items()}
    labels = {f"{name}_labels": LABELS[rows, None].astype(np.uint8) for name, rows in parts.items()}  # (N, 1)
    data = npz(save(**arrays, **labels))
    training, validation = data.split()
    assert (sorted(training), sorted(validation)) == (list(range(6)), [6, 7, 8])
    np.testing.assert_array_equal(data.train_images[validation], planes(pixels[validation]))
    assert data.train_labels[validation].tolist() == LABELS[validation].tolist()
    assert data.split(train_size=4)[0].tolist() == training[:4].tolist()
    with pytest.raises(ValueError, match="train_size must be from 1 to 6"):
        data.split(train_size=7)


def test_a_file_like_keras(save, pixels):
    data = npz(save(x_train=pixels[:9, :, :, 0], y_train=LABELS[:9], x_test=pixels[9:, :, :, 0], y_test=LABELS[9:]))
    np.testing.assert_array_equal(data.train_images, pixels[:9, None, :, :, 0])
    assert data.test_images.shape == (3, 1, 32, 32)


def test_axes_of_channels(save, pixels):
    last, first = save(images=pixels, labels=LABELS), None
    expected = npz(last).train_images
    first = save(images=planes(pixels), labels=LABELS)
    np.testing.assert_array_equal(npz(first).train_images, expected)
    bands = save(images=np.repeat(pixels, 2, axis=3), labels=LABELS)  # six channels, for example of a satellite
    assert npz(bands, layout="hwc").train_images.shape == (10, 6, 32, 32)
    with pytest.raises(DataError, match=r"mine.npz: images must have 1 or 3 channels, .* shape \(12, 32, 32, 6\)"):
        npz(bands)
    with pytest.raises(DataError, match=r"layout=chw or --data layout=hwc\), got the shape \(12, 3, 32, 3\)"):
        npz(save(images=pixels[:, :3], labels=LABELS))


def test_fractions_are_stored_with_eight_bits(save):
    values = np.linspace(0, 1, 12 * 16).reshape(12, 4, 4)
    data = npz(save(images=values.astype(np.float32), labels=LABELS))
    order = split_indices(12, 0.2)[0]
    assert data.max_value == 255
    np.testing.assert_allclose(data.train_images[:, 0] / 255, values[order], atol=0.5 / 255 + 1e-6)


def test_other_values_of_white(save):
    values = np.arange(12 * 16).reshape(12, 4, 4)
    order = split_indices(12, 0.2)[0]
    data = npz(save(images=values % 17, labels=LABELS), max_value=16)
    assert data.max_value == 16
    np.testing.assert_array_equal(data.train_images[:, 0], (values % 17)[order])
    data = npz(save(images=(values * 300).astype(np.uint16), labels=LABELS), max_value=65535)
    assert data.max_value == 255
    np.testing.assert_allclose(data.train_images[:, 0], (values * 300)[order] / 65535 * 255, atol=0.5)


def test_the_task_cnn_takes_it(save):
    from sklearn.datasets import load_digits

    digits = load_digits()
    config = TrialConfig(
        dataset="npz",
        data={"max_value": 16},
        architecture="small_resnet",
        model={"width": 2, "depth": 1},
        max_epochs=1,
        target_sparsity=0.5,
    )
    file = save(images=digits.images.astype(int), labels=digits.target)
    own, built_in = (
        CNN.load(c, str(file)) for c in (config, config.model_copy(update={"dataset": "digits", "data": {}}))
    )
    np.testing.assert_array_equal(own.images.train_images, built_in.images.train_images)  # the same fixed split
    assert len(own.mean) == 1


# ---- bad input ---------------------------------------------------------------------------------------------------


def grey(**changes):
    images = np.full((12, 4, 4), 7, np.uint8)
    return {"images": images, "labels": LABELS, **changes}


def with_value(value, dtype):
    images = np.zeros((12, 4, 4), dtype)
    images[5, 1, 2] = value
    return images


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": LABELS, "labels": LABELS}, "must have images and labels, got no images"),
        ({"pictures": LABELS}, "must have the keys train_images and train_labels or x_train and y_train or images and"),
        (grey(test_images=np.zeros((2, 4, 4), np.uint8)), "must have test_images and test_labels, got no test_labels"),
        (grey(images=np.zeros((12, 16), np.uint8)), "images must have the shape (N, height, width), "),
        (grey(images=np.zeros((0, 4, 4), np.uint8)), "none of them 0, got (0, 4, 4)"),
        (grey(images=np.zeros((12, 4, 4), complex)), "images must be an array of whole numbers or fractions, got comp"),
        (grey(images=np.full((12, 4, 4), "a")), "images must be an array of whole numbers or fractions, got <U1"),
        (
            grey(images=with_value(np.nan, float)),
            "from 0 to 1 (the value of white, --data max_value=...), got nan in i",
        ),
        (grey(images=with_value(np.inf, float)), "got inf in image 5"),
        (grey(images=with_value(1.5, float)), "images must be fractions from 0 to 1 (the value of white, --data max_"),
        (grey(images=with_value(256, int)), "images must be whole numbers from 0 to 255 (the value of white, --data m"),
        (grey(images=with_value(-1, int)), "got -1 in image 5"),
        (grey(labels=LABELS[:11]), "labels must have one label for each of 12 images, got the shape (11,)"),
        (
            grey(labels=np.eye(12, dtype=int)),
            "labels must have one label for each of 12 images, got the shape (12, 12)",
        ),
        (grey(labels=LABELS * 1.0), "labels must be whole numbers, got float64"),
        (grey(labels=LABELS - 1), "labels must be numbered from 0, got -1 in row 0"),
        (grey(labels=LABELS * 2), "training images must have every label from 0 to 4, got 3 of these 5"),
        (grey(labels=LABELS * 0), "training images must have every label from 0 to 1, got 1 of these 2"),
        (
            grey(test_images=np.zeros((1, 4, 4), np.uint8), test_labels=np.array([3])),
            "test labels must be from 0 to 2, as in training, got 3 in row 0",
        ),
        (
            grey(test_images=np.zeros((1, 5, 4), np.uint8), test_labels=np.array([0])),
            "images must have the same channels, height and width in all splits, got images (1, 4, 4), test_images",
        ),
        (grey(images=np.zeros((3, 4, 4), np.uint8), labels=LABELS[:3]), "images for training, validation and testing"),
    ],
)
def test_bad_arrays_are_refused(save, arrays, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        npz(save(**arrays))
    assert str(caught.value).startswith(str(save(**arrays)))
    assert "\n" not in str(caught.value)


def objects(file):
    np.savez(file, images=np.array([{"a": 1}] * 12, dtype=object), labels=LABELS)


def cut(file):
    file.write_bytes(file.read_bytes()[:-500])


def flipped_byte(file):
    content = bytearray(file.read_bytes())
    content[1000] ^= 255
    file.write_bytes(content)


def single_array(file):
    with file.open("wb") as stream:
        np.save(stream, LABELS)


def a_pickle(file):
    file.write_bytes(pickle.dumps(grey()))


def huge_header(file):
    """One array that says it has 10^15 elements."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
    with file.with_suffix(".npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(file.with_suffix(".npy"), "images.npy")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (objects, "ValueError: Object arrays cannot be loaded when allow_pickle=False"),
        (cut, "no zip archive, or one that is cut short"),
        (flipped_byte, "BadZipFile: Bad CRC-32"),
        (single_array, "no zip archive"),
        (a_pickle, "no zip archive"),
        (huge_header, "MemoryError"),
        (lambda file: file.write_bytes(b""), "no zip archive"),
    ],
)
def test_unreadable_files_are_refused(npz_file, spoil, message):
    spoil(npz_file)
    with pytest.raises(
        DataError, match=r"mine.npz: must be a readable .npz file without Python objects, got"
    ) as caught:
        npz(npz_file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "nhwc"}, "layout must be one of auto, hwc, chw, got 'nhwc'"),
        ({"max_value": 0}, "max_value must be above 0 and finite, got 0"),
        ({"augmentation": "flip"}, "augmentation must be one of none, crop, crop_flip, got 'flip'"),
        ({"validation_fraction": 1.0}, "validation_fraction must be in (0, 1), got 1.0"),
    ],
)
def test_bad_arguments(npz_file, arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"npz: {message}")):
        npz(npz_file, **arguments)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"npz: --data-root must name the \.npz file, got none"):
        npz()
    with pytest.raises(DataError, match=r"must name an .npz file, got .*nowhere.npz \(no such file\): np.savez"):
        npz(tmp_path / "nowhere.npz")
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"must hold one .npz file .*, got a.npz, b.npz"):
        npz(tmp_path)
