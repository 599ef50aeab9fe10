import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from tests.trainables.datasets.test_folder import planes
from trainables.data.errors import DataError
from trainables.data.splits import split_indices
from trainables.datasets.huggingface import huggingface

LABELS = [0, 1] * 6


def table(images, labels=LABELS, image="image", label="label", **more):
    return pa.table({image: images, label: pa.array(labels), **more})


def nested(array):
    return pa.array(array.tolist())


# ---- reading -----------------------------------------------------------------------------------------------------


def test_reads_the_three_splits(huggingface_folder, pixels):
    data = huggingface(str(huggingface_folder))
    np.testing.assert_array_equal(data.train_images, planes(pixels[:10]))
    np.testing.assert_array_equal(data.test_images, planes(pixels[10:]))
    training, validation = data.split()
    assert (sorted(training), sorted(validation)) == (list(range(8)), [8, 9])
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == (LABELS[:10], LABELS[10:])
    assert (data.num_classes, data.max_value, data.augmentation) == (2, 255, "crop_flip")


def test_a_validation_split_alone_is_the_test_split(huggingface_folder, pixels):
    (huggingface_folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    data = huggingface(huggingface_folder, validation_fraction=0.25)
    np.testing.assert_array_equal(data.test_images, planes(pixels[8:10]))
    assert [len(part) for part in data.split()] == [6, 2]


@pytest.mark.parametrize("num_files", [1, 3])
def test_a_dataset_of_arrays_without_splits(tmp_path, save_to_disk, pixels, num_files):
    save_to_disk(tmp_path / "saved", table(nested(pixels)), num_files)
    data = huggingface(tmp_path / "saved")
    train, test = split_indices(12, 0.2)
    np.testing.assert_array_equal(data.train_images, planes(pixels)[train])
    np.testing.assert_array_equal(data.test_images, planes(pixels)[test])
    assert data.train_labels.tolist() == [LABELS[i] for i in train]


def test_kinds_of_columns(tmp_path, save_to_disk, pixels, encode):
    train, _ = split_indices(12, 0.2)
    grey, root = pixels[..., 0], tmp_path / "saved"
    save_to_disk(root, table(nested(grey / 255), image="picture", label="kind"))
    data = huggingface(root, image="picture", label="kind")
    np.testing.assert_array_equal(data.train_images[:, 0], grey[train])
    flat = pa.array(grey.reshape(-1))
    fixed = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(flat, 32), 32)
    save_to_disk(root, table(fixed, image="img", label="labels"))
    np.testing.assert_array_equal(huggingface(root).train_images[:, 0], grey[train])
    save_to_disk(root, table(pa.array([encode(image) for image in pixels])))
    np.testing.assert_array_equal(huggingface(root).train_images, planes(pixels)[train])
    data = huggingface(root, image_size=16, channels=1)
    assert data.train_images.shape == (10, 1, 16, 16)


@pytest.mark.extras
def test_what_the_library_saves(tmp_path, pixels):
    """The folders of the other tests are written by hand."""
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    train, test = split_indices(12, 0.2)
    encoded = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    arrays = datasets.Features({"image": datasets.Array3D((32, 32, 3), "uint8"), "label": datasets.Value("int8")})
    files = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in pixels], "label": LABELS}, features=encoded
    )
    for saved in (files, datasets.Dataset.from_dict({"image": pixels, "label": LABELS}, features=arrays)):
        saved.save_to_disk(tmp_path / "one", num_shards=2)
        data = huggingface(tmp_path / "one")
        np.testing.assert_array_equal(data.train_images, planes(pixels)[train])
        assert data.test_labels.tolist() == [LABELS[i] for i in test]
        shuffled = saved.shuffle(seed=0)
        shuffled.save_to_disk(tmp_path / "shuffled")  # with a mapping of the rows until it is saved
        assert huggingface(tmp_path / "shuffled").train_labels.tolist() == [shuffled["label"][i] for i in train]
        for folder in ("one", "shuffled"):
            shutil.rmtree(tmp_path / folder)
    datasets.DatasetDict(
        train=files.select(range(8)), val=files.select([8, 9]), test=files.select([10, 11])
    ).save_to_disk(tmp_path / "splits")
    np.testing.assert_array_equal(huggingface(tmp_path / "splits").test_images, planes(pixels[10:]))


def test_nothing_is_unpickled(tmp_path, save_to_disk, pixels):
    """Old versions of the library declared arrays by a pickled type."""
    bomb = b"cbuiltins\neval\n(V1/0\ntR."
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb}
    images = nested(pixels)
    schema = pa.schema([pa.field("image", images.type, metadata=metadata), pa.field("label", pa.int64())])
    save_to_disk(tmp_path / "saved", pa.table([images, pa.array(LABELS)], schema=schema))
    assert huggingface(tmp_path / "saved").train_images.shape == (10, 3, 32, 32)


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (nested(np.zeros((12, 4))), LABELS, "train must have the shape (N, height, width), "),
        (
            pa.array([[[1, 2]]] * 11 + [[[1]]]),
            LABELS,
            "images must all have the same shape, got lists of the lengths 2, 1",
        ),
        (
            pa.array([[[1, 2]]] * 11 + [None]),
            LABELS,
            "images must all have the same shape, got lists of the lengths 1, N",
        ),
        (pa.array([[[1, 2]]] * 11 + [[[1, None]]]), LABELS, "images must not have missing values, got 1 of them"),
        (
            pa.array([[["a"]]] * 12),
            LABELS,
            "images must be encoded files, or arrays of numbers, got a column of string",
        ),
        (
            pa.array(["a.png"] * 12),
            LABELS,
            "images must be encoded files, or arrays of numbers, got a column of string",
        ),
        (
            nested(np.full((12, 4, 4), np.nan)),
            LABELS,
            "train must be fractions from 0 to 1 (the value of white, --data",
        ),
        (nested(np.full((12, 4, 4), 256)), LABELS, "train must be whole numbers from 0 to 255"),
        (pa.array([b"no image"] * 12), LABELS, "row 0: image must be a readable JPEG or PNG, got UnidentifiedImageErr"),
        (pa.array([None] + [b""] * 11), LABELS, "row 0: image must be a readable JPEG or PNG, got "),
        (
            nested(np.zeros((12, 4, 4))),
            ["a", "b"] * 6,
            "labels must be whole numbers (dataset.class_encode_column(...)",
        ),
        (nested(np.zeros((12, 4, 4))), [None, *LABELS[1:]], "labels must not be missing, got null in row 0"),
        (nested(np.zeros((12, 4, 4))), [-1, *LABELS[1:]], "train labels must be numbered from 0, got -1 in row 0"),
        (nested(np.zeros((12, 4, 4))), [7, *LABELS[1:]], "training images must have every label from 0 to 7, got 3 of"),
    ],
)
def test_bad_columns_are_refused(tmp_path, save_to_disk, images, labels, message):
    save_to_disk(tmp_path / "saved", table(images, labels))
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        huggingface(tmp_path / "saved")
    assert str(caught.value).startswith(str(tmp_path / "saved"))
    assert "\n" not in str(caught.value)


def other_columns(root):
    with pa.ipc.new_stream(root / "train" / "data-00000-of-00001.arrow", pa.schema([("text", pa.string())])) as stream:
        stream.write_table(pa.table({"text": ["a"]}))


def cut(root):
    file = root / "train" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:5000])


def no_arrow(root):
    (root / "train" / "data-00000-of-00001.arrow").write_bytes(b"x" * 100)


def damaged_name(root):
    file = root / "train" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes().replace(b"image", b"imag\xd9"))


def other_file(root):
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../secret.arrow"}]}))


def arrays_in_one_split(root):
    with pa.ipc.new_stream(
        root / "test" / "data-00000-of-00001.arrow", (made := table(nested(np.zeros((2, 4, 4))), [0, 1])).schema
    ) as stream:
        stream.write_table(made)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "dataset_dict.json").unlink(),
            "must hold dataset_dict.json or state.json, got a folder w",
        ),
        (
            lambda root: (root / "dataset_dict.json").write_text("{"),
            "must be a readable JSON object, got JSONDecodeError",
        ),
        (lambda root: (root / "dataset_dict.json").write_text("{}"), "splits must be a list, got NoneType"),
        (
            lambda root: (root / "dataset_dict.json").write_text('{"splits": ["test"]}'),
            "must have the split train, got",
        ),
        (
            lambda root: shutil.rmtree(root / "test"),
            "state.json: must be a readable JSON object, got FileNotFoundError",
        ),
        (lambda root: (root / "train" / "state.json").write_text('{"_data_files": []}'), "must have at least one file"),
        (
            lambda root: (root / "train" / "state.json").write_text('{"_data_files": [], "_indices_files": [{}]}'),
            "must be saved without a mapping of its rows, got one: call flatten_indices() first",
        ),
        (other_file, "_data_files must name files of the folder, got {'filename': '../../secret.arrow'}"),
        (other_columns, "must have the column image or img (--data image=NAME names another one), got text"),
        (cut, "must be a readable arrow file, got "),
        (damaged_name, "must have readable names of columns, got UnicodeDecodeError"),
        (no_arrow, "must be a readable arrow file, got "),
        (arrays_in_one_split, "images must be of one kind in all splits, got arrays in test"),
    ],
)
def test_bad_folders_are_refused(huggingface_folder, spoil, message):
    spoil(huggingface_folder)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        huggingface(huggingface_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be a whole number of pixels >= 1, got 0"),
        ({"channels": 4}, "channels must be 1 (grey) or 3 (RGB), got 4"),
        ({"augmentation": "flip"}, "augmentation must be one of none, crop, crop_flip, got 'flip'"),
        ({"validation_fraction": 0}, "validation_fraction must be in (0, 1), got 0"),
    ],
)
def test_bad_arguments(huggingface_folder, arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"huggingface: {message}")):
        huggingface(huggingface_folder, **arguments)


def test_arrays_are_not_resized(tmp_path, save_to_disk, pixels):
    save_to_disk(tmp_path / "saved", table(nested(pixels)))
    with pytest.raises(DataError, match="image_size must be left out"):
        huggingface(tmp_path / "saved", image_size=16)


def test_no_folder(tmp_path):
    with pytest.raises(
        DataError, match="huggingface: --data-root must name the folder with the saved dataset, got none"
    ):
        huggingface()
    with pytest.raises(DataError, match=r"got no such folder: dataset.save_to_disk\(folder\) of the library"):
        huggingface(tmp_path / "nowhere")
