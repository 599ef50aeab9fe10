"""What holds for every file of trainables/datasets/ that gives `Images`."""

import importlib
import pkgutil

import numpy as np
import pytest

from trainables import datasets

OTHERS = {"commonsense", "lgg"}  # text and segmentation have tests of their own
NAMES = [m.name for m in pkgutil.iter_modules(datasets.__path__) if not m.name.startswith("_") and m.name not in OTHERS]
NEEDS_FOLDER = {  # data set -> the fixture with a small copy of it; else nothing is read
    "cifar10": "cifar10_folder",
    "cifar100": "cifar100_folder",
    "folder": "image_folder",
    "svhn": "svhn_folder",
    "tiny_imagenet": "tiny_imagenet_folder",
}


@pytest.fixture(params=NAMES)
def load(request):
    """A function without arguments that loads the data set."""
    module = importlib.import_module(f"trainables.datasets.{request.param}")
    assert module.__all__ == [request.param]
    folder = NEEDS_FOLDER.get(request.param)
    root = request.getfixturevalue(folder) if folder else None
    return lambda: getattr(module, request.param)(root)


def test_types_shapes_and_ranges(load):
    data = load()
    shape = data.train_images.shape[1:]
    assert len(shape) == 3
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert images.max() <= data.max_value
        assert images.shape == (len(labels), *shape)
        assert labels.dtype == np.int64
        assert labels.min() >= 0
        assert labels.max() < data.num_classes
    assert data.augmentation in ("none", "crop", "crop_flip")


def test_same_data_and_same_split_twice(load):
    one, two = load(), load()
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    for mine, theirs in zip(one.split(), two.split(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_training_and_validation_split_share_nothing_and_miss_nothing(load):
    data = load()
    training, validation = data.split()
    assert sorted([*training, *validation]) == list(range(len(data.train_images)))
    assert len(validation) == round(data.validation_fraction * len(data.train_images)) > 0
