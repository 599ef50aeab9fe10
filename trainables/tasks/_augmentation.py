"""Random transformations of training images, on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PADDING", "crop_flip", "warp"]

PADDING = 4  # pixels of zeros around an image before a crop


def crop_flip(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Crop images from their zero-padded versions, and mirror some of them.

    The whole batch takes one gather.

    Args:
        images: (N, C, H, W).
        shifts: int64 (N, 2), the row and column at which the crop begins, from 0 to 2 PADDING.
        flips: bool (N,), whether to mirror left to right after the crop.

    Returns:
        (N, C, H, W).
    """
    n, _, height, width = images.shape
    rows = shifts[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, width)
    columns = shifts[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    padded = F.pad(images, (PADDING,) * 4)
    batch = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def warp(images: Tensor, masks: Tensor, mirrored: Tensor, angles: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror, rotate and scale images with their masks, the whole batch at once.

    Images are interpolated bilinearly, masks by nearest neighbour. Zeros fill what comes in at the border.

    Args:
        images: float (N, C, S, S).
        masks: float (N, S, S).
        mirrored: bool (N,), whether to mirror left to right, before the rotation.
        angles: float (N,), counterclockwise rotation about the centre in radians.
        scales: float (N,), magnification about the centre.

    Returns:
        The transformed images and masks.
    """
    cos, sin, flip = angles.cos() / scales, angles.sin() / scales, 1 - 2 * mirrored.float()
    zero = torch.zeros_like(cos)
    # Maps the position of a pixel to where it came from. The y axis points down, so this rotates counterclockwise.
    back = torch.stack((flip * cos, -flip * sin, zero, sin, cos, zero), 1).view(-1, 2, 3)
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    return turned, F.grid_sample(masks[:, None], grid, mode="nearest", align_corners=False)[:, 0]
