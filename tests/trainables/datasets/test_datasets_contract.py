"""What holds for every file of trainables/datasets/."""

import importlib
import pkgutil

import numpy as np
import pytest

from trainables import datasets

NAMES = [module.name for module in pkgutil.iter_modules(datasets.__path__) if not module.name.startswith("_")]
NEEDS_FOLDER = {"cifar10": "cifar10_folder"}  # data set -> the fixture with a small sample of it; else nothing is read


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
    assert data.augmentation in ("none", "crop_flip")


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
