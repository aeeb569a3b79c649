"""RoIPool (Fast R-CNN): the maximum of the pixels in each bin."""

import torch
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import as_float32
from mmfocal.ops.mmcv_ops.weighted_sums import channels_last_rows

# Values that are gathered at once; channels are processed in chunks of that many.
MAX_VALUES = 1 << 26


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills the output of RoIPool. It does not round RoIs, unlike torchvision's.

    Args:
        input: (B, C, H, W).
        rois: (N, 5), as (image, x1, y1, x2, y2) in pixels of the image.
        output: (N, C, pooled_height, pooled_width); 0 in empty bins.
        argmax: The pixel of each maximum, of the output's shape; -1 in empty bins.
        pooled_height: Bins in a column.
        pooled_width: Bins in a row.
        spatial_scale: Of the input against the image.
    """
    if not output.numel():
        return
    height, width = input.shape[2:]
    rows = channels_last_rows(input)
    boxes, scale = rois.to(rows.dtype), as_float32(spatial_scale)
    start = boxes[:, [2, 1]] * scale
    size = (boxes[:, [4, 3]] + 1) * scale - start
    shape = (pooled_height, pooled_width)
    lows, lengths = [], []
    for axis, limit in enumerate((height, width)):
        bin_size = size[:, axis, None] / shape[axis]
        steps = torch.arange(shape[axis] + 1, device=boxes.device) * bin_size + start[:, axis, None]
        low = steps[:, :-1].float().floor().long().clamp(0, limit)
        high = steps[:, 1:].float().ceil().long().clamp(0, limit)
        lows.append(low)
        lengths.append((high - low).clamp(min=0))
    low_y, low_x = torch.broadcast_tensors(lows[0][:, :, None], lows[1][:, None])
    rows_in_bin, columns_in_bin = torch.broadcast_tensors(lengths[0][:, :, None], lengths[1][:, None])
    count = rows_in_bin * columns_in_bin * (size > 0).all(1)[:, None, None]
    count, low_y, low_x, columns_in_bin = (each.flatten() for each in (count, low_y, low_x, columns_in_bin))
    bin_index = torch.arange(len(count), device=count.device).repeat_interleave(count)
    position = torch.arange(len(bin_index), device=count.device) - (count.cumsum(0) - count)[bin_index]
    columns = columns_in_bin[bin_index]
    pixel = (low_y[bin_index] + position // columns) * width + low_x[bin_index] + position % columns
    image = boxes[:, 0].long()[bin_index // (pooled_height * pooled_width)]
    pooled, argmaxes = [], []
    for part in rows.split(max(1, MAX_VALUES // max(len(pixel), 1)), dim=1):
        values = part[pixel + image * (height * width)]
        largest = torch.segment_reduce(values, 'max', lengths=count, axis=0, initial=-torch.inf)
        first = torch.where(values == largest.repeat_interleave(count, 0), pixel[:, None].double(), torch.inf)
        first = torch.segment_reduce(first, 'min', lengths=count, axis=0, initial=torch.inf)
        pooled.append(torch.where(count[:, None] > 0, largest, 0))
        argmaxes.append(torch.where(first.isinf(), -1, first).long())
    for result, parts in ((output, pooled), (argmax, argmaxes)):
        result.copy_(torch.cat(parts, 1).view(-1, *shape, input.shape[1]).movedim(-1, 1))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills the gradient of RoIPool's input; arguments as in `roi_pool_forward`."""
    batch, channels, height, width = grad_input.shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    index = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    values = torch.where(argmax >= 0, grad_output, 0)
    total = torch.zeros(grad_input.numel(), dtype=grad_input.dtype, device=grad_input.device)
    grad_input.copy_(total.index_add_(0, index.flatten(), values.flatten()).view_as(grad_input))
