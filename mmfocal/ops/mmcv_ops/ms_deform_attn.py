"""Multi-scale deformable attention (Deformable DETR)."""

import torch
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import compute_dtype
from mmfocal.ops.mmcv_ops.weighted_sums import corners_zero, sum_rows


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Returns the attention's output (B, queries, heads * channels).

    Args:
        value: (B, keys, heads, channels).
        value_spatial_shapes: (levels, 2), height and width of each level.
        value_level_start_index: (levels,), the first key of each level.
        sampling_locations: (B, queries, heads, levels, points, 2), as (x, y) in sizes of the level.
        attention_weights: (B, queries, heads, levels, points).
        im2col_step: Unused.
    """
    output = attend(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights)
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fills the gradients of the values, the locations and the weights; arguments as in `ms_deform_attn_forward`."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
        output = attend(leaves[0], value_spatial_shapes, value_level_start_index, *leaves[1:])
        gradients = torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
    for result, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients):
        result.copy_(gradient)


def attend(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Returns the output in float32, or float64; all levels, points and corners are one weighted sum of rows."""
    batch, keys, heads, channels = value.shape
    queries = locations.shape[1]
    value, locations, weights = map(compute_dtype, (value, locations, weights))
    height, width = (size.view(-1, 1) for size in shapes.unbind(1))  # against (..., levels, points)
    corners = corners_zero(locations[..., 1] * height - 0.5, locations[..., 0] * width - 0.5, height, width)
    key = corners.pixel + starts.view(-1, 1, 1)
    image, head = (torch.arange(size, device=value.device) for size in (batch, heads))
    row = (key + image.view(-1, 1, 1, 1, 1, 1) * keys) * heads + head.view(-1, 1, 1, 1)
    weight = corners.weight * weights[..., None]
    rows = value.reshape(-1, channels)
    bags = batch * queries * heads
    output = sum_rows(rows, row.reshape(bags, -1), weight.reshape(bags, -1))
    return output.view(batch, queries, heads * channels)
