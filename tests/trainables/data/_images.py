import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data.generate import generate


@pytest.fixture
def encode():
    """A function: uint8 pixels (H, W, 3) or (H, W) -> the bytes of an image file, without loss if it is a PNG."""

    def encode(pixels, form="PNG"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=form)
        return file.getvalue()

    return encode


@pytest.fixture
def write_parquet():
    """A function that writes images' bytes and labels to a file, in the schema of the Hugging Face hub."""

    def write(file, images, labels, *, column="img", label="label"):
        rows = [{"bytes": image, "path": None} for image in images]
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({column: pa.array(rows, image_type), label: pa.array(list(labels), pa.int64())}), file)

    return write


@pytest.fixture
def pixels():
    """Twelve images, (12, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def cifar10_folder(tmp_path, pixels, encode, write_parquet):
    """A folder in the hub's schema: ten images to train on, labelled 0 to 9, and two to test on, labelled 3 and 4."""
    encoded = [encode(image) for image in pixels]
    write_parquet(tmp_path / "train.parquet", encoded[:10], range(10))
    write_parquet(tmp_path / "test.parquet", encoded[10:], [3, 4])
    return tmp_path


@pytest.fixture
def svhn_folder(tmp_path):
    generate("svhn", tmp_path / "svhn", num_train=20, num_test=10)
    return tmp_path / "svhn"


@pytest.fixture
def cifar100_folder(tmp_path):
    generate("cifar100", tmp_path / "cifar100", num_train=200, num_test=100)
    return tmp_path / "cifar100"


@pytest.fixture
def tiny_imagenet_folder(tmp_path):
    generate("tiny_imagenet", tmp_path / "tiny_imagenet", num_train=200, num_test=200)
    return tmp_path / "tiny_imagenet"


@pytest.fixture
def image_folder(tmp_path, pixels, encode):
    """`train/` with five images of each of two classes, `test/` with one: those of `pixels`, in their order."""
    places = [f"train/{name}/{i}.png" for name in ("ant", "bee") for i in range(5)]
    places += ["test/ant/0.png", "test/bee/0.PNG"]
    for place, image in zip(places, pixels, strict=True):
        (tmp_path / "images" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / place).write_bytes(encode(image))
    return tmp_path / "images"
