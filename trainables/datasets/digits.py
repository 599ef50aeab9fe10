from pathlib import Path

import numpy as np

from trainables.data.images import Images
from trainables.data.splits import split_indices

__all__ = ["digits"]


def digits(root: str | Path | None = None) -> Images:
    """Handwritten digits: 8x8 grey images of ten classes.

    1,438 images for training and 359 for testing. This is the copy inside scikit-learn, so nothing is downloaded. It
    has no test split of its own: a fixed random 20% of the images are the test split. Pixels are from 0 to 16.

    Args:
        root: Not used; every dataset has this argument.

    Returns:
        The dataset. A quarter of the training images is held out for validation.

    Reference: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998.
    """
    from sklearn.datasets import load_digits  # lazy: importing scikit-learn takes a second

    data = load_digits()
    images = data.images[:, np.newaxis].astype(np.uint8)  # (1797, 1, 8, 8)
    labels = data.target.astype(np.int64)
    train, test = split_indices(len(images), 0.2)
    return Images(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        num_classes=10,
        max_value=16,
        augmentation="none",
        validation_fraction=0.25,
    )
