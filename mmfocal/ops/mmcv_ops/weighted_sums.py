"""Bilinear sampling as weighted sums of rows: no sample is ever stored for all channels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import compute_dtype


class Corners(NamedTuple):
    """The four pixels around each sampling point."""

    pixel: Tensor  # (..., 4), y * width + x
    weight: Tensor  # (..., 4)


def corners_clamped(y: Tensor, x: Tensor, height: Tensor | int, width: Tensor | int) -> Corners:
    """Returns corners where points up to one pixel outside the map read its border, as in RoIAlign; others read 0."""
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y_low, y_high, y_part = _clamped_axis(torch.where(inside, y, 0), height)
    x_low, x_high, x_part = _clamped_axis(torch.where(inside, x, 0), width)
    index = torch.stack(
        [y_low * width + x_low, y_low * width + x_high, y_high * width + x_low, y_high * width + x_high], -1
    )
    weight = torch.stack(
        [(1 - y_part) * (1 - x_part), (1 - y_part) * x_part, y_part * (1 - x_part), y_part * x_part], -1
    )
    return Corners(index, weight * inside[..., None])


def _clamped_axis(position: Tensor, size: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    position = position.clamp(min=0)
    low = position.long().clamp(max=size - 1)
    part = torch.where(low >= size - 1, 0, position - low)
    return low, (low + 1).clamp(max=size - 1), part


def corners_zero(y: Tensor, x: Tensor, height: Tensor | int, width: Tensor | int) -> Corners:
    """Returns corners where the map goes on with zeros, as in deformable convolutions and attention."""
    inside = (y > -1) & (x > -1) & (y < height) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)  # NaN or far outside: no valid integer
    y_low, x_low = y.detach().floor(), x.detach().floor()
    y_part, x_part = y - y_low, x - x_low
    indices, weights = [], []
    for row, y_weight in ((y_low.long(), 1 - y_part), (y_low.long() + 1, y_part)):
        for column, x_weight in ((x_low.long(), 1 - x_part), (x_low.long() + 1, x_part)):
            valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            indices.append(torch.where(valid, row * width + column, 0))
            weights.append(torch.where(valid, y_weight * x_weight, 0))
    return Corners(torch.stack(indices, -1), torch.stack(weights, -1))


def sum_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Returns the weighted sums of rows, differentiable in rows and weights.

    Args:
        rows: (R, C).
        index: (M, K), into rows.
        weight: (M, K).

    Returns:
        (M, C).
    """
    return F.embedding_bag(index, rows, mode='sum', per_sample_weights=weight)


def sum_ragged_rows(rows: Tensor, index: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """Returns the weighted sums of runs of rows.

    Args:
        rows: (R, C).
        index: (E,), into rows, one run after the other.
        weight: (E,).
        lengths: (M,), of the runs.

    Returns:
        (M, C), zeros for empty runs.
    """
    return F.embedding_bag(index, rows, lengths.cumsum(0) - lengths, mode='sum', per_sample_weights=weight)


def channels_last_rows(maps: Tensor) -> Tensor:
    """Returns (B, C, H, W) as rows (B * H * W, C) in float32, or in float64 if the maps are."""
    return compute_dtype(maps.movedim(1, -1).reshape(-1, maps.shape[1]))
