"""RoIAlign (Mask R-CNN): average or maximum of bilinear samples in each bin."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmfocal.ops.mmcv_ops import torchvision_kernels
from mmfocal.ops.mmcv_ops.dtypes import as_float32, kernel_dtype
from mmfocal.ops.mmcv_ops.weighted_sums import channels_last_rows, corners_clamped, sum_ragged_rows, sum_rows

# RoIs are processed in chunks of at most that many samples, which bounds the memory of large RoIs.
MAX_SAMPLES = 1 << 20
MAX_POOL, AVERAGE_POOL = 0, 1


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills the output of RoIAlign.

    Args:
        input: (B, C, H, W).
        rois: (N, 5), as (image, x1, y1, x2, y2) in pixels of the image.
        output: (N, C, aligned_height, aligned_width).
        argmax_y: Row of the largest sample, of the output's shape, filled by maximum pooling.
        argmax_x: Its column.
        aligned_height: Bins in a column.
        aligned_width: Bins in a row.
        spatial_scale: Of the input against the image.
        sampling_ratio: Samples in a bin along each axis; 0 takes the bin's size, rounded up.
        pool_mode: 0 for the maximum, 1 for the average.
        aligned: Whether RoIs are shifted by half a pixel; if not, they are at least one pixel wide and high.
    """
    if not output.numel():
        return
    spatial_scale = as_float32(spatial_scale)
    bins, height, width = (aligned_height, aligned_width), input.shape[2], input.shape[3]
    if pool_mode == AVERAGE_POOL and torchvision_kernels.preferred_on(input.device.type):
        maps, boxes = kernel_dtype(input), kernel_dtype(rois.to(input.dtype))
        output.copy_(torch.ops.torchvision.roi_align(maps, boxes, spatial_scale, *bins, sampling_ratio, aligned))
        return
    rows = channels_last_rows(input)
    boxes = rois.to(rows.dtype)
    for chunk in chunks(boxes, bins, spatial_scale, sampling_ratio, aligned):
        samples = sample(boxes[chunk], bins, spatial_scale, sampling_ratio, aligned)
        corners = corners_clamped(samples.y, samples.x, height, width)
        index = corners.pixel + samples.image[:, None] * (height * width)
        shape = (-1, *bins, input.shape[1])
        if pool_mode == AVERAGE_POOL:
            weight = corners.weight / samples.per_bin.repeat_interleave(samples.per_bin)[:, None]
            pooled = sum_ragged_rows(rows, index.flatten(), weight.flatten(), 4 * samples.per_bin)
            output[chunk] = pooled.view(shape).movedim(-1, 1)
            continue
        values = sum_rows(rows, index, corners.weight)
        # The compiled operator starts with -10000, and its argmax with -1.
        pooled = torch.segment_reduce(values, 'max', lengths=samples.per_bin, axis=0, initial=-10000.0)
        position = torch.arange(len(values), dtype=torch.float64, device=values.device)
        largest = values == pooled.repeat_interleave(samples.per_bin, 0)
        largest &= values > -10000
        position = torch.where(largest, position[:, None], len(values))
        first = torch.segment_reduce(position, 'min', lengths=samples.per_bin, axis=0, initial=len(values)).long()
        output[chunk] = pooled.view(shape).movedim(-1, 1)
        for argmax, coordinate in ((argmax_y, samples.y), (argmax_x, samples.x)):
            coordinate = torch.cat([coordinate, coordinate.new_full((1,), -1)])
            argmax[chunk] = coordinate[first].view(shape).movedim(-1, 1).to(argmax.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills the gradient of RoIAlign's input; arguments as in `roi_align_forward`."""
    if not grad_output.numel():
        return
    spatial_scale = as_float32(spatial_scale)
    bins, (batch, channels, height, width) = (aligned_height, aligned_width), grad_input.shape
    if pool_mode == AVERAGE_POOL and torchvision_kernels.preferred_on(grad_output.device.type):
        grad, boxes = kernel_dtype(grad_output), kernel_dtype(rois.to(grad_output.dtype))
        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                grad, boxes, spatial_scale, *bins, batch, channels, height, width, sampling_ratio, aligned
            )
        )
        return
    grad_rows = channels_last_rows(grad_output)
    boxes = rois.to(grad_rows.dtype)
    if pool_mode == AVERAGE_POOL:
        total = grad_rows.new_zeros(batch * height * width, channels)
        for chunk in chunks(boxes, bins, spatial_scale, sampling_ratio, aligned):
            samples = sample(boxes[chunk], bins, spatial_scale, sampling_ratio, aligned)
            corners = corners_clamped(samples.y, samples.x, height, width)
            index = corners.pixel + samples.image[:, None] * (height * width)
            weight = corners.weight / samples.per_bin.repeat_interleave(samples.per_bin)[:, None]
            # The transposed sum: entries are sorted by pixel, and each pixel sums the gradients of bins.
            pixel, order = index.flatten().sort()
            first_bin = chunk.start * bins[0] * bins[1]
            bin_index = first_bin + torch.arange(len(samples.per_bin), device=index.device)
            entries = bin_index.repeat_interleave(4 * samples.per_bin)[order]
            lengths = torch.bincount(pixel, minlength=len(total))
            total += sum_ragged_rows(grad_rows, entries, weight.flatten()[order], lengths)
    else:
        y, x = (channels_last_rows(argmax).to(grad_rows.dtype) for argmax in (argmax_y, argmax_x))
        corners = corners_clamped(y, x, height, width)
        # An argmax of -1 says that no sample was above -10000.
        weight = corners.weight * (grad_rows * ((y != -1) & (x != -1)))[..., None]
        image = boxes[:, 0].long().repeat_interleave(bins[0] * bins[1])
        index = corners.pixel + image[:, None, None] * (height * width)
        index = index * channels + torch.arange(channels, device=index.device)[:, None]
        total = grad_rows.new_zeros(batch * height * width * channels)
        total = total.index_add_(0, index.flatten(), weight.flatten()).view(-1, channels)
    grad_input.copy_(total.view(batch, height, width, channels).movedim(-1, 1))


class Samples(NamedTuple):
    """Sampling points of all bins, one bin after the other."""

    y: Tensor  # (S,)
    x: Tensor  # (S,)
    image: Tensor  # (S,), index in the batch
    per_bin: Tensor  # (bins,), points of each bin


def sample(rois: Tensor, bins: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool) -> Samples:
    """Returns the sampling points of all bins, in the compiled operator's order."""
    start, bin_size, grid = geometry(rois, bins, spatial_scale, sampling_ratio, aligned)
    return sample_bins(bin_origins(start, bin_size, bins), bin_size, grid, rois[:, 0].long())


def geometry(
    rois: Tensor, bins: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the RoIs' corners, sizes of their bins and samples along each axis of a bin, each (N, 2) as (y, x)."""
    offset = 0.5 if aligned else 0.0
    start = rois[:, [2, 1]] * spatial_scale - offset
    size = rois[:, [4, 3]] * spatial_scale - offset - start
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / torch.tensor(bins, dtype=rois.dtype, device=rois.device)
    if sampling_ratio > 0:
        grid = torch.full_like(bin_size, sampling_ratio, dtype=torch.long)
    else:
        grid = bin_size.float().ceil().long().clamp(min=0)  # the compiled operator rounds up in float32
    return start, bin_size, grid


def bin_origins(start: Tensor, bin_size: Tensor, bins: tuple[int, int]) -> Tensor:
    """Returns the corners (N, bins in a column, bins in a row, 2) of the bins."""
    axes = [
        start[:, axis, None] + torch.arange(bins[axis], device=start.device) * bin_size[:, axis, None]
        for axis in (0, 1)
    ]
    return torch.stack(torch.broadcast_tensors(axes[0][:, :, None], axes[1][:, None]), -1)


def sample_bins(origins: Tensor, bin_size: Tensor, grid: Tensor, image: Tensor) -> Samples:
    """Returns the sampling points of bins (N, rows, columns) whose corners, sizes and grids are known."""
    per_roi = origins.shape[1] * origins.shape[2]
    per_bin = grid.prod(-1)
    count = per_bin.repeat_interleave(per_roi)
    bin_index = torch.arange(len(count), device=count.device).repeat_interleave(count)
    roi = bin_index // per_roi
    position = torch.arange(len(bin_index), device=count.device) - (count.cumsum(0) - count)[bin_index]
    grid_x = grid[roi, 1]
    steps = torch.stack([position // grid_x, position % grid_x], -1)
    points = origins.flatten(0, 2)[bin_index] + (steps + 0.5).to(bin_size.dtype) * bin_size[roi] / grid[roi]
    return Samples(points[:, 0], points[:, 1], image[roi], count)


def chunks(
    rois: Tensor, bins: tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Iterator[slice]:
    """Yields runs of RoIs of at most `MAX_SAMPLES` samples, or a single RoI."""
    if sampling_ratio > 0:
        step = max(1, MAX_SAMPLES // (bins[0] * bins[1] * sampling_ratio**2))
        yield from (slice(start, min(start + step, len(rois))) for start in range(0, len(rois), step))
        return
    grid = geometry(rois, bins, spatial_scale, sampling_ratio, aligned)[2]
    start = total = 0
    for stop, samples in enumerate((grid.prod(-1) * bins[0] * bins[1]).tolist()):
        if total and total + samples > MAX_SAMPLES:
            yield slice(start, stop)
            start, total = stop, 0
        total += samples
    yield slice(start, len(rois))
