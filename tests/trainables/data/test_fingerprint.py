from dataclasses import dataclass

import numpy as np
import pytest

from tests.trainables._tiny_tasks import make_tiny_task, tiny_config
from trainables.data.fingerprint import fingerprint


@dataclass
class Data:
    images: np.ndarray
    names: tuple[str, ...] = ("a", "b")


IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 4)
OTHERS = {
    "one value": Data(np.where(IMAGES == 5, 6, IMAGES).astype(np.uint8)),
    "the type": Data(IMAGES.astype(np.int16)),
    "the shape": Data(IMAGES.reshape(4, 3)),
    "the order": Data(IMAGES[::-1]),
    "a name": Data(IMAGES, ("a", "c")),
    "the names' borders": Data(IMAGES, ("ab", "")),
    "the number of names": Data(IMAGES, ("a", "b", "")),
    "a tuple": (IMAGES, ("a", "b")),
    "an object array": Data(np.array([{"a": 1}, None], dtype=object)),
}


def test_the_same_data_have_the_same_fingerprint():
    assert fingerprint(Data(IMAGES)) == fingerprint(Data(np.asfortranarray(IMAGES.copy())))
    assert fingerprint({"a": 1, "b": (IMAGES, None)}) == fingerprint({"b": [IMAGES.copy(), None], "a": 1})


def test_different_data_have_different_fingerprints():
    found = {fingerprint(data) for data in (Data(IMAGES), *OTHERS.values())}
    assert len(found) == len(OTHERS) + 1


@pytest.mark.parametrize("architecture", ["small_resnet", "vit", "unet", "causal_lm"])
def test_every_tasks_data_have_one(architecture):
    data = make_tiny_task(tiny_config(architecture)).data
    assert len(fingerprint(data)) == 16
    assert fingerprint(data) == fingerprint(data)


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="data: must be arrays and plain values, got object"):
        fingerprint([object()])
