import re

import numpy as np
import pytest

from trainables.data.errors import DataError
from trainables.data.splits import split_indices, split_last, split_patients


def test_split_is_fixed():
    training, validation = split_indices(50_000, 0.1)
    assert (len(training), len(validation)) == (45_000, 5_000)
    # Recorded once: results on a validation split are comparable only on the same images.
    assert validation[:5].tolist() == [15693, 35885, 8449, 5622, 25483]
    assert training[:5].tolist() == [16511, 36069, 3169, 17454, 1503]


def test_train_size_takes_the_first_and_leaves_validation_alone():
    training, validation = split_indices(100, 0.25)
    few, same_validation = split_indices(100, 0.25, train_size=10)
    assert few.tolist() == training[:10].tolist()
    assert same_validation.tolist() == validation.tolist()
    assert sorted([*training, *validation]) == list(range(100))


def test_own_validation_split_is_shuffled_for_a_subset():
    """The first ones, which `eval_size` keeps, are of both classes although the examples are stored by class."""
    labels = np.repeat([0, 1], 50)
    training, validation = split_last(1000, 0.1, subset=True)
    assert sorted(training) == list(range(900))
    assert sorted(validation) == list(range(900, 1000))
    assert set(labels[validation[:10] - 900]) == {0, 1}
    assert split_last(1000, 0.1, 5, subset=True)[1].tolist() == validation.tolist()
    assert split_last(1000, 0.1, 5)[1].tolist() == list(range(900, 1000))


@pytest.mark.parametrize("train_size", [0, -1, 76])
def test_train_size_out_of_range(train_size):
    message = (
        "split: train_size must be from 1 to 75 (100 training examples, of which 25 are held out for validation), "
        f"got {train_size}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        split_indices(100, 0.25, train_size=train_size)


def test_patients_are_split_by_their_names_only():
    names = [f"TCGA_HT_{i}" for i in range(110)]
    split = split_patients(names)
    assert {part: len(patients) for part, patients in split.items()} == {"train": 66, "validation": 22, "test": 22}
    assert sorted(name for patients in split.values() for name in patients) == sorted(names)
    assert split_patients([*names[::-1], *names]) == split
    assert list(split["test"]) == sorted(split["test"])


@pytest.mark.parametrize(("num", "sizes"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (8, [4, 2, 2]), (16, [10, 3, 3])])
def test_numbers_of_patients(num, sizes):
    assert [len(part) for part in split_patients(f"P{i}" for i in range(num)).values()] == sizes


def test_too_few_patients_to_split():
    with pytest.raises(DataError, match=r"^split: there must be at least 3 patients .*, got \['P\d', 'P\d'\]$"):
        split_patients(["P1", "P2", "P1"])
