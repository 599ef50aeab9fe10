import re
import shutil

import numpy as np
import pytest
from PIL import Image

from trainables.config import TrialConfig
from trainables.data.errors import DataError
from trainables.data.splits import split_indices
from trainables.datasets.folder import folder
from trainables.tasks.cnn import CNN


def planes(pixels):
    return pixels.transpose(0, 3, 1, 2)


def test_reads_images_in_folders(image_folder, pixels):
    data = folder(str(image_folder))
    np.testing.assert_array_equal(data.train_images, planes(pixels[:10]))
    np.testing.assert_array_equal(data.test_images, planes(pixels[10:]))
    assert data.train_labels.tolist() == [0] * 5 + [1] * 5
    assert data.test_labels.tolist() == [0, 1]
    assert (data.num_classes, data.max_value) == (2, 255)
    assert (data.augmentation, data.validation_fraction) == ("crop_flip", 0.1)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_folder(image_folder, pixels, name):
    (image_folder / "test").rename(image_folder / name)
    np.testing.assert_array_equal(folder(image_folder).test_images, planes(pixels[10:]))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_beside_a_test_folder_they_are_the_validation_split(image_folder, pixels, name):
    for class_name in ("ant", "bee"):
        shutil.copytree(image_folder / "test" / class_name, image_folder / name / class_name)
    data = folder(image_folder, validation_fraction=0.5)
    _, validation = data.split()
    np.testing.assert_array_equal(data.train_images[validation], planes(pixels[10:]))
    assert data.train_labels[validation].tolist() == [0, 1]
    assert len(data.train_images) == 10 + 2
    np.testing.assert_array_equal(data.test_images, planes(pixels[10:]))
    (image_folder / name / "bee").rename(image_folder / name / "wasp")
    with pytest.raises(DataError, match=rf"train and .*{name} must hold the same classes, got \['bee', 'wasp'\]"):
        folder(image_folder)


def test_ignores_other_files(image_folder):
    for name in ("train/notes.txt", "train/.DS_Store", "train/ant/labels.csv", "train/ant/._0.png", "README.md"):
        (image_folder / name).write_text("x")
    (image_folder / "train" / ".ipynb_checkpoints").mkdir()
    assert folder(image_folder).train_labels.tolist() == [0] * 5 + [1] * 5


def test_without_a_test_folder_a_fixed_fifth_is_held_out(image_folder, pixels):
    for image in (image_folder / "test").rglob("*.[pP]*"):
        image.unlink()
    for name in ("ant", "bee"):
        (image_folder / "test" / name).rmdir()
    (image_folder / "test").rmdir()
    data = folder(image_folder, validation_fraction=0.25)
    train, test = split_indices(10, 0.2)
    np.testing.assert_array_equal(data.train_images, planes(pixels[:10])[train])
    np.testing.assert_array_equal(data.test_images, planes(pixels[:10])[test])
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ((train // 5).tolist(), (test // 5).tolist())
    assert [len(part) for part in data.split()] == [6, 2]


def test_grey_and_rgb(image_folder, pixels, encode):
    grey = pixels[3, :, :, 0]
    (image_folder / "train" / "ant" / "3.png").write_bytes(encode(grey))
    assert (folder(image_folder).train_images[3] == grey).all()  # in all three channels
    data = folder(image_folder, channels=1)
    assert data.train_images.shape == (10, 1, 32, 32)
    np.testing.assert_array_equal(data.train_images[3, 0], grey)
    luma = pixels[:3] @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, as Pillow documents
    np.testing.assert_allclose(data.train_images[:3, 0], luma, atol=1)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_converts_all_kinds_of_8_bit_images(image_folder, mode):
    image = Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode)
    file = image_folder / "train" / "ant" / "0.png"
    image.save(file, format="JPEG" if mode == "CMYK" else "PNG")
    assert folder(image_folder).train_images[0].min() >= 254


def test_resizing_is_bilinear_and_antialiased(image_folder, encode):
    """Shrunk by a factor s, a pixel is the mean of its neighbourhood, weighted by a triangle 2 s pixels wide."""
    values = np.random.default_rng(0).integers(0, 256, (96, 48, 3), dtype=np.uint8)
    (image_folder / "train" / "ant" / "0.png").write_bytes(encode(values))

    def weights(num, size):
        scale = num / size
        distance = np.abs((np.arange(num) + 0.5)[None, :] - (np.arange(size) + 0.5)[:, None] * scale) / scale
        triangle = np.clip(1 - distance, 0, None)
        return triangle / triangle.sum(1, keepdims=True)

    data = folder(image_folder, image_size=16)
    expected = np.einsum("ih,jw,hwc->cij", weights(96, 16), weights(48, 16), values)
    np.testing.assert_allclose(data.train_images[0], expected, atol=1)  # Pillow rounds after each direction
    assert data.train_images.shape == (10, 3, 16, 16)
    assert data.test_images.shape == (2, 3, 16, 16)


def test_resizing_enlarges_and_keeps_images_of_the_size(image_folder, pixels):
    np.testing.assert_array_equal(folder(image_folder, image_size=32).train_images, planes(pixels[:10]))
    flat = Image.new("RGB", (8, 8), (10, 20, 30))
    flat.save(image_folder / "train" / "ant" / "0.png")
    large = folder(image_folder, image_size=40).train_images
    assert large.shape == (10, 3, 40, 40)
    assert (large[0] == np.array([10, 20, 30])[:, None, None]).all()


def test_applies_the_orientation_that_cameras_store(image_folder):
    image = Image.new("RGB", (32, 32), "white")
    image.paste("black", (0, 0, 16, 32))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise: the left half is shown at the top
    image.save(image_folder / "train" / "ant" / "0.png", format="JPEG", exif=exif, quality=95)
    upright = folder(image_folder).train_images[0]
    assert upright[:, :14].max() < 20
    assert upright[:, 18:].min() > 235


def test_the_task_cnn_passes_the_arguments_of_the_configuration(image_folder):
    config = TrialConfig(
        dataset="folder",
        data={"image_size": 8, "channels": 1, "augmentation": "crop", "validation_fraction": 0.3},
        architecture="small_resnet",
        model={"width": 2, "depth": 1},
        max_epochs=1,
        batch_size=2,
        target_sparsity=0.5,
    )
    task = CNN(config, CNN.load(config, str(image_folder)))
    model = task.build_model()
    assert [images.shape for images, _ in task.batches("train", 2, seed=0)] == [(2, 1, 8, 8)] * 3
    assert set(task.evaluate(model, "validation")) == {"acc", "loss", "collapsed"}
    with pytest.raises(
        ValueError, match=r"data: arguments of folder must be among image_size, channels, .*, got 'size'"
    ):
        CNN.load(config.model_copy(update={"data": {"size": 8}}), str(image_folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be a whole number of pixels >= 1, got 0"),
        ({"image_size": 8.5}, "image_size must be a whole number of pixels >= 1, got 8.5"),
        ({"channels": 4}, "channels must be 1 (grey) or 3 (RGB), got 4"),
        ({"augmentation": "flip"}, "augmentation must be one of none, crop, crop_flip, got 'flip'"),
        ({"validation_fraction": 0}, "validation_fraction must be in (0, 1), got 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be in (0, 1), got 1.0"),
    ],
)
def test_bad_arguments(image_folder, arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"folder: {message}")):
        folder(image_folder, **arguments)


def remove_class(root):
    for file in (root / "test" / "bee").iterdir():
        file.unlink()
    (root / "test" / "bee").rmdir()


def rename_class(root):
    (root / "test" / "bee").rename(root / "test" / "wasp")


def add_class(root):
    (root / "test" / "cat").mkdir()


def empty_class(root):
    for file in (root / "train" / "bee").iterdir():
        file.unlink()


def one_class(root):
    empty_class(root)
    (root / "train" / "bee").rmdir()


def no_classes(root):
    for file in root.glob("train/*/*"):
        file.rename(root / "train" / f"{file.parent.name}{file.name}")
    for name in ("ant", "bee"):
        (root / "train" / name).rmdir()


def no_image(root):
    (root / "train" / "bee" / "2.png").write_bytes(b"no image")


def cut_image(root):
    file = root / "train" / "bee" / "2.png"
    file.write_bytes(file.read_bytes()[:1000])


def first_is_no_image(root):
    (root / "train" / "ant" / "0.png").write_bytes(b"")


def deep_image(root):
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(root / "train" / "bee" / "2.png")


def other_size(root):
    Image.new("RGB", (31, 32)).save(root / "train" / "bee" / "2.png")


def a_folder_like_an_image(root):
    (root / "train" / "bee" / "9.png").mkdir()


def too_few(root):
    for file in root.glob("train/*/[2-4].png"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_class, r"train and .*test must hold the same classes, got \['bee'\] in only one"),
        (rename_class, r"train and .*test must hold the same classes, got \['bee', 'wasp'\] in only one"),
        (add_class, r"train and .*test must hold the same classes, got \['cat'\] in only one"),
        (empty_class, r"train/bee must hold \.png, \.jpg, \.jpeg files, got none"),
        (one_class, r"train must hold a folder for each of two or more classes, got \['ant'\]"),
        (no_classes, r"train must hold a folder for each of two or more classes, got \[\]"),
        (no_image, r"train/bee/2\.png: image must be a readable JPEG or PNG, got UnidentifiedImageError"),
        (cut_image, r"train/bee/2\.png: image must be a readable JPEG or PNG, got OSError"),
        (first_is_no_image, r"train/ant/0\.png: image must be a readable JPEG or PNG, got UnidentifiedImageError"),
        (deep_image, r"train/bee/2\.png: image must have shape \(3, 32, 32\) .* and 8 bits a channel, got \(1, .* I"),
        (other_size, r"train/bee/2\.png: image must have shape \(3, 32, 32\) .*, got \(3, 32, 31\) RGB: --data image"),
        (a_folder_like_an_image, r"train/bee/9\.png: must be a readable file, got IsADirectoryError"),
        (too_few, r"there must be images for training, validation and testing, got 4, 0 and 2"),
    ],
)
def test_bad_data_is_refused(image_folder, spoil, message):
    spoil(image_folder)
    with pytest.raises(DataError, match=message) as caught:
        folder(image_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "what"), [(".", "a folder without them"), ("nowhere", "no such folder")])
def test_no_data(tmp_path, name, what):
    with pytest.raises(DataError, match=rf"must hold train/CLASS/ folders of images, or .*, got {what}: name"):
        folder(tmp_path / name)
    with pytest.raises(DataError, match="folder: --data-root must name the folder with the images, got none"):
        folder()


# ---- parquet -----------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path, pixels, encode, write_parquet):
    """A function that writes parquet files with the given training and test labels, and returns the root."""

    def write(train, test, name="test"):
        for split_name, labels, images in (("train", train, pixels), (name, test, pixels[::-1])):
            file = tmp_path / "data" / f"{split_name}-00000-of-00001.parquet"
            encoded = [encode(image) for image, _ in zip(images, labels, strict=False)]
            write_parquet(file, encoded, labels, column="image")
        return tmp_path

    return write


@pytest.mark.parametrize("name", ["test", "validation"])
def test_reads_parquet_files(parquet, pixels, name):
    root = parquet([1, 0, 2, 1, 0], [2, 0], name)
    data = folder(root, image_size=16, channels=1, validation_fraction=0.2)
    assert data.train_labels.tolist() == [1, 0, 2, 1, 0]
    assert data.test_labels.tolist() == [2, 0]
    assert (data.num_classes, data.train_images.shape, data.test_images.shape) == (3, (5, 1, 16, 16), (2, 1, 16, 16))
    np.testing.assert_array_equal(folder(root, validation_fraction=0.2).train_images, planes(pixels[:5]))


def test_reads_a_validation_split_from_parquet_files(parquet, pixels):
    parquet([1, 0, 2, 1, 0], [2, 0, 1], "validation")
    data = folder(parquet([1, 0, 2, 1, 0], [2, 0]))
    train, validation = data.split()
    np.testing.assert_array_equal(np.sort(train), np.arange(5))
    np.testing.assert_array_equal(data.train_images[validation], planes(pixels[::-1][:3]))
    assert data.train_labels[validation].tolist() == [2, 0, 1]
    assert data.test_labels.tolist() == [2, 0]
    with pytest.raises(DataError, match=r"validation-00000-of-00001\.parquet, row 0: label must be from 0 to 2, got 3"):
        folder(parquet([1, 0, 2, 1, 0], [3], "validation"))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1, 3, 0, 0], [0], "must hold training images of every label from 0 to 3, got 3 of these 4"),
        ([0, 0, 0, 0, 0], [0], "must hold training images of every label from 0 to 1, got 1 of these 2"),
        ([0, 1, 0, 0, 0], [2], "test-00000-of-00001.parquet, row 0: label must be from 0 to 1, got 2"),
        ([0, -1, 1, 0, 0], [0], "train-00000-of-00001.parquet, row 1: label must be from 0 to 1, got -1"),
        ([0, None, 1, 0, 0], [0], "train-00000-of-00001.parquet, row 1: label must be from 0 to 1, got None"),
    ],
)
def test_wrong_labels(parquet, train, test, message):
    with pytest.raises(DataError, match=re.escape(message)):
        folder(parquet(train, test))


def test_corrupt_image_in_a_parquet_file(tmp_path, parquet, write_parquet, encode, pixels):
    root = parquet([0, 1, 0, 1, 0], [0])
    encoded = [encode(image) for image in pixels[:5]]
    encoded[3] = encoded[3][:500]
    write_parquet(root / "data" / "train-00000-of-00001.parquet", encoded, [0, 1, 0, 1, 0])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet, row 3: image must be a readable JPEG or PNG"):
        folder(root, validation_fraction=0.2)
