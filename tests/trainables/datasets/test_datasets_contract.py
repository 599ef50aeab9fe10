"""The contract of every file of trainables/datasets/."""

import dataclasses
import importlib

import numpy as np
import pytest

import sparsity
from trainables.data.images import Images
from trainables.data.questions import Questions
from trainables.data.slices import Slices
from trainables.data.splits import SPLITS

FOLDERS = {  # dataset -> the fixture with a small copy of it, for datasets that need a folder
    "cifar10": "cifar10_folder",
    "cifar100": "cifar100_folder",
    "commonsense": "commonsense_folder",
    "folder": "image_folder",
    "huggingface": "huggingface_folder",
    "huggingface_questions": "question_folder",
    "lgg": "lgg_folder",
    "npz": "npz_file",
    "svhn": "svhn_folder",
    "tiny_imagenet": "tiny_imagenet_folder",
}


@pytest.fixture(params=sparsity.names("trainables.datasets"))
def load(request):
    """A function without arguments that loads the dataset."""
    module = importlib.import_module(f"trainables.datasets.{request.param}")
    assert module.__all__ == [request.param]
    fixture = FOLDERS.get(request.param)
    root = request.getfixturevalue(fixture) if fixture else None
    return lambda: getattr(module, request.param)(root)


def test_types_shapes_and_ranges(load):
    data = load()
    checks = {Images: check_images, Slices: check_slices, Questions: check_questions}
    (check,) = (check for kind, check in checks.items() if isinstance(data, kind))
    check(data)


def check_images(data):
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
    check_split(data, len(data.train_images))


def check_slices(data):
    num, channels, height, width = data.images.shape
    assert height == width
    assert data.images.dtype == data.masks.dtype == np.uint8
    assert data.images.max() <= data.max_value
    assert data.masks.shape == (num, height, width)
    assert set(np.unique(data.masks)) == {0, 1}
    assert data.mean.shape == data.std.shape == (num, channels)
    assert (data.std > 0).all()
    assert len(data.channels) == channels
    assert 0 <= data.shown < channels
    assert sorted(np.concatenate([data.rows(split) for split in SPLITS])) == list(range(num))
    assert all(data.masks[data.rows(split)].any() for split in SPLITS)


def check_questions(data):
    for question in (*data.train, *data.test):
        assert all(isinstance(text, str) and text for text in (question.prompt, question.task, *question.responses))
        assert len(set(question.responses)) == len(question.responses) >= 2
        assert 0 <= question.answer < len(question.responses)
    assert data.cutoff >= 1
    assert data.template
    check_split(data, len(data.train))


def check_split(data, num_train):
    training, validation = data.split()
    assert sorted([*training, *validation]) == list(range(num_train))
    assert len(validation) == round(data.validation_fraction * num_train) > 0


def test_the_data_is_the_same_every_time(load):
    one, two = load(), load()
    for field in dataclasses.fields(one):
        mine, other = getattr(one, field.name), getattr(two, field.name)
        assert np.array_equal(mine, other) if isinstance(mine, np.ndarray) else mine == other
