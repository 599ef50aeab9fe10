import numpy as np

from trainables.datasets.digits import digits


def test_is_scikit_learns_set():
    data = digits()
    assert data.train_images.shape == (1438, 1, 8, 8)
    assert data.test_images.shape == (359, 1, 8, 8)
    assert data.max_value == data.train_images.max() == 16
    labels = np.concatenate([data.train_labels, data.test_labels])
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # from UCI's optdigits.names, testing set
    assert np.bincount(labels).tolist() == counts


def test_images_keep_their_labels():
    first = [  # the first image of the set, printed in scikit-learn's documentation: a zero
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
        [0, 3, 15, 2, 0, 11, 8, 0],
        [0, 4, 12, 0, 0, 8, 8, 0],
        [0, 5, 8, 0, 0, 9, 8, 0],
        [0, 4, 11, 0, 1, 12, 7, 0],
        [0, 2, 14, 5, 10, 12, 0, 0],
        [0, 0, 6, 13, 10, 0, 0, 0],
    ]
    data = digits()
    images = np.concatenate([data.train_images, data.test_images])[:, 0]
    labels = np.concatenate([data.train_labels, data.test_labels])
    (found,) = np.flatnonzero((images == first).all(axis=(1, 2)))
    assert labels[found] == 0


def test_sizes_of_the_splits():
    training, validation = digits().split()
    assert (len(training), len(validation)) == (1078, 360)  # a quarter of 1438 is 359.5
