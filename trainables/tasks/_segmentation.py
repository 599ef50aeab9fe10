"""Metrics of binary segmentation, which are defined for empty masks too.

A mask is True on the pixels of the lesion.
"""

import math

import numpy as np
from scipy.ndimage import distance_transform_edt

__all__ = ["counts", "hausdorff", "tversky"]


def counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count true positives, false positives and false negatives of each image.

    Args:
        predicted: bool (N, H, W).
        truth: bool (N, H, W).

    Returns:
        int64 (N, 3).
    """
    pairs = (predicted & truth, predicted & ~truth, ~predicted & truth)
    return np.stack([pair.sum(axis=(1, 2), dtype=np.int64) for pair in pairs], axis=1)


def tversky(counts: np.ndarray, alpha: float = 0.5, beta: float = 0.5) -> np.ndarray:
    """Tversky index TP / (TP + alpha FP + beta FN): in [0, 1], 1 is best.

    With alpha = beta = 1/2 it is F1, also called Dice. Without a lesion and without a predicted one it is 1: nothing is
    missed.

    Args:
        counts: (..., 3), as `counts` returns them.
        alpha: Weight of false positives.
        beta: Weight of false negatives.

    Returns:
        float64 (...).

    Reference: Tversky, "Features of similarity", Psychological Review 1977; Salehi, Erdogmus & Gholipour, "Tversky loss
    function for image segmentation", 2017, arXiv 1706.05721, with their alpha and beta.
    """
    positive, *wrong = np.moveaxis(counts, -1, 0).astype(np.float64)
    whole = positive + alpha * wrong[0] + beta * wrong[1]
    return np.divide(positive, whole, out=np.ones_like(whole), where=whole > 0)


def hausdorff(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Hausdorff distance of two masks A and B in pixels, between pixel centres.

    max(max over a in A of min over b in B of |a - b|, max over b in B of min over a in A of |a - b|). It is 0 if both
    masks are empty, and the diagonal of the image, the largest possible distance, if one is.

    Args:
        predicted: bool (H, W).
        truth: bool (H, W).
    """
    both = predicted | truth
    if not both.any():
        return 0.0
    if not (predicted.any() and truth.any()):
        return math.hypot(*(side - 1 for side in both.shape))
    box = tuple(slice(on[0], on[-1] + 1) for on in map(np.flatnonzero, (both.any(axis=1), both.any(axis=0))))
    predicted, truth = predicted[box], truth[box]  # distances outside of this box are not needed
    return max(distance_transform_edt(~b)[a].max() for a, b in ((predicted, truth), (truth, predicted)))
