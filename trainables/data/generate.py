"""Generate a small dataset in the format of a real one, to try a sweep with.

    python -m trainables.data.generate svhn FOLDER --num-train 2000

Then run, for example, `python sweeps/svhn.py --data-root FOLDER`. The images are drawn by a program, so results on them
say nothing about the real data; the generated README.txt says so too. FOLDER must be empty or not exist. It appears
when it is complete.

svhn: scikit-learn's handwritten digits between parts of others, light on dark in random colours, with noise. The two
    splits use different digits. Files: `train_32x32.mat`, `test_32x32.mat`.
cifar100: each class is one of ten shapes (discs, rings, stars of 2 to 5 rays) in one of ten hues, on grey of random
    brightness, with noise. Five successive classes form a superclass. Files: `cifar-100-binary/`.
tiny_imagenet: the same shapes at 64x64 in twenty hues, 200 classes. Every fiftieth image is grey, as some of the real
    ones are. Files: `tiny-imagenet-200/`.
"""

import argparse
import colorsys
import tempfile
from pathlib import Path

import numpy as np

from trainables.data.splits import split_indices

__all__ = ["generate"]

SHAPES = [(rays, hollow) for rays in (0, 2, 3, 4, 5) for hollow in (False, True)]


def generate(dataset: str, folder: str | Path, *, num_train: int = 2000, num_test: int = 500, seed: int = 0) -> None:
    """Generate a dataset in a new folder. The same arguments write the same files.

    Args:
        dataset: One of svhn, cifar100, tiny_imagenet.
        folder: Folder to create, or an empty one.
        num_train: Number of training images. Each class has the same number of images in a split, to within one.
        num_test: Number of test images.
        seed: Seed of the images.

    Raises:
        ValueError: If the folder is not empty, or a split has fewer images than classes.
    """
    write, num_classes = FORMATS[dataset]
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"generate: folder must not exist or be empty (nothing is overwritten), got {folder}")
    for name, num in (("num_train", num_train), ("num_test", num_test)):
        if num < num_classes:
            raise ValueError(f"generate: {name} must be at least {num_classes} (one image per class), got {num}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-partial-") as partial:
        rng = np.random.default_rng(seed)
        train, test = (rng.permutation(np.arange(num) % num_classes) for num in (num_train, num_test))
        target = Path(partial) / folder.name
        target.mkdir()
        write(target, train, test, rng)
        (target / "README.txt").write_text(
            f"Generated images in the format of {dataset}, not the real data. Written by\n"
            f"python -m trainables.data.generate {dataset} FOLDER --num-train {num_train} --num-test {num_test} "
            f"--seed {seed}\n"
        )
        target.rename(folder)


# ---- formats -----------------------------------------------------------------------------------------------------


def _svhn(folder, train, test, rng):
    from scipy.io import savemat  # lazy, as scikit-learn is: the other formats need neither
    from sklearn.datasets import load_digits

    digits = load_digits()
    parts = split_indices(len(digits.images), 0.2)
    for name, labels, part in zip(("train", "test"), (train, test), parts, strict=True):
        drawn, classes = digits.images[part] / 16, digits.target[part]
        numbers = [_house_number(drawn, classes, label, rng) for label in labels]
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, np.newaxis]  # as published: 10 is the digit 0
        savemat(folder / f"{name}_32x32.mat", {"X": np.stack(numbers, axis=-1), "y": y}, do_compression=True)


def _cifar100(folder, train, test, rng):
    folder = folder / "cifar-100-binary"
    folder.mkdir()
    for file, labels in (("train.bin", train), ("test.bin", test)):
        images = np.stack([_drawing(label, 32, 10, rng).transpose(2, 0, 1).ravel() for label in labels])
        np.column_stack([labels // 5, labels, images]).astype(np.uint8).tofile(folder / file)


def _tiny_imagenet(folder, train, test, rng):
    from PIL import Image

    folder = folder / "tiny-imagenet-200"
    wnids = [f"n{90_000_000 + label}" for label in range(200)]  # no ids of WordNet

    def write(file, label, number):
        image = Image.fromarray(_drawing(label, 64, 20, rng))
        (image.convert("L") if number % 50 == 49 else image).save(file, quality=90)

    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
    (folder / "val" / "images").mkdir(parents=True)
    for number, label in enumerate(train):
        write(folder / "train" / wnids[label] / "images" / f"{wnids[label]}_{number}.JPEG", label, number)
    for number, label in enumerate(test):
        write(folder / "val" / "images" / f"val_{number}.JPEG", label, number)
    boxes = [f"val_{number}.JPEG\t{wnids[label]}\t0\t0\t63\t63\n" for number, label in enumerate(test)]
    (folder / "val" / "val_annotations.txt").write_text("".join(boxes))
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")


# ---- images, uint8 (H, W, 3) -------------------------------------------------------------------------------------


def _house_number(drawn, classes, label, rng):
    """Draw a random digit of class `label` between two others that the image's edges cut off.

    drawn: digits, (N, 8, 8), in [0, 1]. classes: their classes, (N,).
    """
    from PIL import Image

    left, right = rng.integers(len(drawn), size=2)
    three = np.hstack([drawn[left], drawn[rng.choice(np.flatnonzero(classes == label))], drawn[right]])
    height, width = rng.integers(22, 29), rng.integers(16, 23)
    drawing = Image.fromarray((three * 255).astype(np.uint8)).resize((3 * width, height), Image.Resampling.BICUBIC)
    ink = np.pad(np.asarray(drawing) / 255, 16)
    row, column = np.array(ink.shape) // 2 - 16 + rng.integers(-2, 3, 2)
    ink = ink[row : row + 32, column : column + 32, np.newaxis]
    back, front = rng.uniform(0, 0.5, 3), rng.uniform(0.6, 1, 3)  # light on dark is learned in a minute
    return _finished(back + (front - back) * ink, rng)


def _drawing(label, size, num_hues, rng):
    """Draw shape label // num_hues in hue label % num_hues, at a random size, position, rotation and brightness."""
    rays, hollow = SHAPES[label // num_hues]
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5 - rng.uniform(-0.12, 0.12, (2, 1, 1))
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    depth = 0.45 if rays else 0.0
    radius = rng.uniform(0.24, 0.34) * (1 + depth * np.cos(rays * (angle - rng.uniform(0, 2 * np.pi))))
    inside = np.clip((radius - distance) * size + 0.5, 0, 1)  # an edge one pixel wide
    if hollow:
        inside *= np.clip((distance - 0.55 * radius) * size + 0.5, 0, 1)
    hue = (label % num_hues + rng.uniform(-0.25, 0.25)) / num_hues
    front = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.7, 1), rng.uniform(0.6, 1)))
    back = np.full(3, rng.uniform(0, 0.4)) + rng.uniform(-0.05, 0.05, 3)
    return _finished(back + (front - back) * inside[..., np.newaxis], rng)


def _finished(image, rng):
    return (np.clip(image + rng.normal(0, 0.05, image.shape), 0, 1) * 255).round().astype(np.uint8)


FORMATS = {
    "svhn": (_svhn, 10),
    "cifar100": (_cifar100, 100),
    "tiny_imagenet": (_tiny_imagenet, 200),
}  # write, number of classes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.data.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=FORMATS)
    parser.add_argument("folder", help="folder to write, for --data-root")
    parser.add_argument("--num-train", type=int, default=2000, help="training images [2000]")
    parser.add_argument("--num-test", type=int, default=500, help="test images [500]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the images [0]")
    chosen = parser.parse_args()
    try:
        generate(**vars(chosen))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{chosen.folder}: {chosen.num_train} generated training images and {chosen.num_test} test images")


if __name__ == "__main__":
    main()
