import numpy as np

from trainables.data.images import Images, split

__all__ = ["digits"]


def digits(root=None):
    """Handwritten digits, 8x8 grey pixels from 0 to 16, ten classes: 1,438 images to train on and 359 to test on.

    Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998, the copy inside scikit-learn, so
    nothing is downloaded. It comes as one set: a fixed, random 20% of it are the test split here.
    root: not used; every data set takes it.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = data.images[:, np.newaxis].astype(np.uint8)  # (1797, 1, 8, 8)
    labels = data.target.astype(np.int64)
    train, test = split(len(images), 0.2)
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
