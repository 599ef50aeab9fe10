import numpy as np
import pytest

from trainables.data.images import Images
from trainables.data.questions import Question, Questions

FIELDS = {"num_classes": 2, "max_value": 255, "augmentation": "none", "validation_fraction": 0.25}


def images(**fields):
    pixels, labels = np.full((8, 1, 4, 4), 200, np.uint8), np.arange(8) % 2
    return Images(pixels, labels, pixels, labels, **{**FIELDS, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augmentation": "flip"}, "augmentation must be one of none, crop, crop_flip, got 'flip'"),
        ({"max_value": 1}, r"max_value must be from the highest pixel of train_images, 200, to 255 .*, got 1"),
        ({"max_value": 256}, r"max_value must be from the highest pixel of train_images, 200, to 255 .*, got 256"),
        ({"validation_fraction": 1}, r"validation_fraction must be in \(0, 1\), got 1"),
        (
            {"validation_fraction": 0.05},
            "must leave images for both training and validation, got 0.05 of 8, which is 0",
        ),
        (
            {"validation_fraction": 0.95},
            "must leave images for both training and validation, got 0.95 of 8, which is 8",
        ),
        ({"num_classes": 1}, "train_labels must be from 0 to num_classes - 1 = 0, got 0 to 1"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    assert len(images().split()[1]) == 2
    with pytest.raises(ValueError, match=f"^Images: .*{message}"):
        images(**fields)


def test_questions_for_validation_and_testing_are_needed():
    question = Question("Which?", ("a", "b"), 0, "task")
    with pytest.raises(ValueError, match=r"questions for both training and validation, got 0.1 of 4, which is 0"):
        Questions([question] * 4, [question], 0.1, 256, "{}")
    with pytest.raises(ValueError, match="test must hold at least one question"):
        Questions([question] * 20, [], 0.1, 256, "{}")
