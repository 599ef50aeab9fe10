"""Metrics of binary segmentation, each with its rule for empty masks. A mask is True on the pixels of the lesion."""

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

__all__ = ["counts", "hausdorff", "tversky"]


def counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """True positives, false positives and false negatives of each of (N, H, W) masks, int64 (N, 3)."""
    pairs = (predicted & truth, predicted & ~truth, ~predicted & truth)
    return np.stack([pair.sum(axis=(1, 2), dtype=np.int64) for pair in pairs], axis=1)


def tversky(counts: np.ndarray, alpha: float = 0.5, beta: float = 0.5) -> np.ndarray:
    """TP / (TP + alpha FP + beta FN) of counts (..., 3), the Tversky index: in [0, 1], 1 is perfect.

    Source: Tversky, "Features of similarity", Psychological Review 1977; Salehi, Erdogmus & Gholipour, "Tversky loss
    function for image segmentation", 2017, arXiv 1706.05721, with their alpha and beta. At 1/2 and 1/2 it is F1, which
    is Dice. 1 where there is no lesion and none is predicted: nothing is missed.
    """
    positive, *wrong = np.moveaxis(counts, -1, 0).astype(np.float64)
    whole = positive + alpha * wrong[0] + beta * wrong[1]
    return np.divide(positive, whole, out=np.ones_like(whole), where=whole > 0)


def hausdorff(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The Hausdorff distance of two (H, W) masks in pixels: the farthest that a pixel of one is from the other mask.

    max(max over a in A of min over b in B of |a - b|, and the same with A and B exchanged), between pixels' centres.
    0 where both masks are empty; where one is, the image's diagonal, the farthest that two pixels can be apart.
    """
    both = predicted | truth
    if not both.any():
        return 0.0
    if not (predicted.any() and truth.any()):
        return math.hypot(*(side - 1 for side in both.shape))
    box = tuple(slice(on[0], on[-1] + 1) for on in map(np.flatnonzero, (both.any(axis=1), both.any(axis=0))))
    predicted, truth = predicted[box], truth[box]  # all that distances are between
    return max(distance_transform_edt(~b)[a].max() for a, b in ((predicted, truth), (truth, predicted)))
