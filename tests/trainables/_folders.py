"""Fixtures: small copies of datasets in folders, and what they are made of."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data.generate import generate


@pytest.fixture
def encode():
    """A function that encodes uint8 pixels, (H, W, 3) or (H, W), as an image file."""

    def encode(pixels, form="PNG"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=form)
        return file.getvalue()

    return encode


@pytest.fixture
def write_parquet():
    """A function that writes encoded images and labels to a parquet file, in the schema of the Hugging Face hub."""

    def write(file, images, labels, *, column="img", label="label"):
        rows = [{"bytes": image, "path": None} for image in images]
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({column: pa.array(rows, image_type), label: pa.array(list(labels), pa.int64())}), file)

    return write


@pytest.fixture
def pixels():
    """Twelve random images, (12, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def save_to_disk():
    """A function that writes a table as `save_to_disk` of Hugging Face's `datasets` does, in one or more files."""

    def save(folder, table, num_files=1):
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"data-{i:05}-of-{num_files:05}.arrow" for i in range(num_files)]
        for i, name in enumerate(names):
            first, last = (table.num_rows * j // num_files for j in (i, i + 1))
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(table[first:last])
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))

    return save


@pytest.fixture
def huggingface_folder(tmp_path, pixels, encode, save_to_disk):
    """The images of `pixels` in order: eight for training, two for validation and two for testing; two classes."""
    root = tmp_path / "saved"
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, first, last in (("train", 0, 8), ("validation", 8, 10), ("test", 10, 12)):
        images = [{"bytes": encode(image), "path": None} for image in pixels[first:last]]
        labels = [i % 2 for i in range(first, last)]
        save_to_disk(root / split, pa.table({"image": pa.array(images, image_type), "label": pa.array(labels)}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    return root


@pytest.fixture
def question_folder(tmp_path, save_to_disk):
    """Questions with three choices as a `DatasetDict`: eight for training, two for validation and two for testing."""
    root = tmp_path / "saved"
    for split, first, last in (("train", 0, 8), ("validation", 8, 10), ("test", 10, 12)):
        columns = {
            "question": [f"Which one flies {i} times?" for i in range(first, last)],
            "choices": [["a stone", "a bird", "a cloud"]] * (last - first),
            "answer": [i % 3 for i in range(first, last)],
        }
        save_to_disk(root / split, pa.table(columns))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    return root


@pytest.fixture
def npz_file(tmp_path, pixels):
    """The images of `pixels` in order: ten for training and two for testing; two classes."""
    file = tmp_path / "mine.npz"
    labels = np.arange(12) % 2
    np.savez(file, train_images=pixels[:10], train_labels=labels[:10], test_images=pixels[10:], test_labels=labels[10:])
    return file


@pytest.fixture
def cifar10_folder(tmp_path, pixels, encode, write_parquet):
    """Parquet files with ten training images, labelled 0 to 9, and two test images, labelled 3 and 4."""
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
    """The images of `pixels` in order: five per class in `train/` and one per class in `test/`, two classes."""
    places = [f"train/{name}/{i}.png" for name in ("ant", "bee") for i in range(5)]
    places += ["test/ant/0.png", "test/bee/0.PNG"]
    for place, image in zip(places, pixels, strict=True):
        (tmp_path / "images" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / place).write_bytes(encode(image))
    return tmp_path / "images"


@pytest.fixture
def lgg_folder(tmp_path):
    """Three patients with one slice each, whose lesion is a square."""
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    for number in range(3):
        name = f"TCGA_CS_{number:02}_19960909"
        folder = tmp_path / "lgg" / "kaggle_3m" / name
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}_1.tif")
        Image.fromarray(mask).save(folder / f"{name}_1_mask.tif")
    return tmp_path / "lgg"


@pytest.fixture
def commonsense_folder(tmp_path):
    """BoolQ with twenty training questions and two test questions."""
    (tmp_path / "commonsense" / "boolq").mkdir(parents=True)
    for split, num in (("train", 20), ("test", 2)):
        answers = [("false", "true")[i % 2] for i in range(num)]
        records = [
            {
                "instruction": f"is {i} odd?\n\nAnswer format: true/false",
                "input": "",
                "output": f"the correct answer is {answer}",
                "answer": answer,
            }
            for i, answer in enumerate(answers)
        ]
        (tmp_path / "commonsense" / "boolq" / f"{split}.json").write_text(json.dumps(records))
    return tmp_path / "commonsense"
