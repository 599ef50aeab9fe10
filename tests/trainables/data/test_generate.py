import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import sparsity
from trainables.data.generate import generate

NUM_CLASSES = {"svhn": 10, "cifar100": 100, "tiny_imagenet": 200}


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_the_dataset_reads_what_was_generated(tmp_path, name):
    num = NUM_CLASSES[name]
    generate(name, tmp_path / "new", num_train=num + 5, num_test=num)
    data = sparsity.load("trainables.datasets", name)(tmp_path / "new")
    assert data.num_classes == num
    assert sorted(np.bincount(data.train_labels)) == [1] * (num - 5) + [2] * 5
    assert np.bincount(data.test_labels).tolist() == [1] * num
    assert "not the real data" in (tmp_path / "new" / "README.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_seed_decides_the_images(tmp_path):
    made = []
    for i, seed in enumerate((1, 1, 2)):
        generate("cifar100", tmp_path / str(i), num_train=100, num_test=100, seed=seed)
        made.append((tmp_path / str(i) / "cifar-100-binary" / "train.bin").read_bytes())
    assert made[0] == made[1] != made[2]


def test_some_files_of_tiny_imagenet_are_grey(tmp_path):
    from PIL import Image

    generate("tiny_imagenet", tmp_path, num_train=200, num_test=200)
    modes = [Image.open(file).mode for file in tmp_path.rglob("train/*/images/*.JPEG")]
    assert (modes.count("L"), modes.count("RGB")) == (4, 196)


def test_a_linear_model_learns_the_hue(tmp_path):
    """Chance is 0.1. The shape is beyond a linear model."""
    generate("cifar100", tmp_path, num_train=400, num_test=200)
    data = sparsity.load("trainables.datasets", "cifar100")(tmp_path)

    def colours(images):
        return np.sort(images.reshape(len(images), 3, -1) / 255, axis=2)[:, :, 100::100].reshape(len(images), -1)

    model = LogisticRegression(C=10, max_iter=300).fit(colours(data.train_images), data.train_labels % 10)
    assert model.score(colours(data.test_images), data.test_labels % 10) > 0.5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["full"], "generate: folder must not exist or be empty (nothing is overwritten), got full\n"),
        (["new", "--num-test", "3"], "generate: num_test must be at least 100 (one image per class), got 3\n"),
        (["new", "--num-train", "200"], ""),
    ],
)
def test_command(tmp_path, arguments, error):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    command = [sys.executable, "-m", "trainables.data.generate", "cifar100", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2 if error else 0, error)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert (tmp_path / "new").exists() is (not error)
    assert done.stdout == ("" if error else "new: 200 generated training images and 500 test images\n")
