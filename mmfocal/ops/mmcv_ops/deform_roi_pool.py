"""Deformable RoI pooling (Dai et al. 2017): RoIAlign whose bins are moved by learnt offsets."""

import torch
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import as_float32
from mmfocal.ops.mmcv_ops.roi_align import bin_origins, chunks, geometry, sample_bins
from mmfocal.ops.mmcv_ops.weighted_sums import channels_last_rows, corners_clamped, sum_ragged_rows


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fills the output of deformable RoI pooling.

    Args:
        input: (B, C, H, W).
        rois: (N, 5), as (image, x1, y1, x2, y2) in pixels of the image.
        offset: (N, 2, pooled_height, pooled_width), as (x, y) in sizes of the RoI, or empty.
        output: (N, C, pooled_height, pooled_width).
        pooled_height: Bins in a column.
        pooled_width: Bins in a row.
        spatial_scale: Of the input against the image.
        sampling_ratio: Samples in a bin along each axis; 0 takes the bin's size, rounded up.
        gamma: Factor of the offsets.
    """
    bins = (pooled_height, pooled_width)
    rows = channels_last_rows(input)
    for chunk in chunks(rois.to(rows.dtype), bins, as_float32(spatial_scale), sampling_ratio, True):
        part = offset[chunk] if offset.numel() else offset
        output[chunk] = pool(rows, input.shape, rois[chunk], part, bins, spatial_scale, sampling_ratio, gamma)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fills the gradients of the input and of the offsets; arguments as in `deform_roi_pool_forward`."""
    bins = (pooled_height, pooled_width)
    for chunk in chunks(channels_last_rows(rois[:, :, None]), bins, as_float32(spatial_scale), sampling_ratio, True):
        with torch.enable_grad():
            leaves = [input.detach().requires_grad_(), offset[chunk].detach().requires_grad_()]
            rows = channels_last_rows(leaves[0])
            pooled = pool(rows, input.shape, rois[chunk], leaves[1], bins, spatial_scale, sampling_ratio, gamma)
            wanted = leaves if offset.numel() else leaves[:1]
            gradients = torch.autograd.grad(pooled, wanted, grad_output[chunk].to(pooled.dtype))
        grad_input += gradients[0]
        if offset.numel():
            grad_offset[chunk] = gradients[1]


def pool(
    rows: Tensor,
    shape: torch.Size,
    rois: Tensor,
    offset: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """Returns the pooled features (N, C, bins in a column, bins in a row) of maps of a shape, given as rows."""
    _, channels, height, width = shape
    rois = rois.to(rows.dtype)
    start, bin_size, grid = geometry(rois, bins, as_float32(spatial_scale), sampling_ratio, True)
    origins = bin_origins(start, bin_size, bins)
    if offset.numel():
        size = bin_size * torch.tensor(bins, device=bin_size.device)
        moves = offset.to(rows.dtype).movedim(1, -1).flip(-1)
        origins = origins + as_float32(gamma) * size[:, None, None] * moves
    samples = sample_bins(origins, bin_size, grid, rois[:, 0].long())
    corners = corners_clamped(samples.y, samples.x, height, width)
    index = corners.pixel + samples.image[:, None] * (height * width)
    weight = corners.weight / samples.per_bin.repeat_interleave(samples.per_bin)[:, None]
    pooled = sum_ragged_rows(rows, index.flatten(), weight.flatten(), 4 * samples.per_bin)
    return pooled.view(-1, *bins, channels).movedim(-1, 1)
