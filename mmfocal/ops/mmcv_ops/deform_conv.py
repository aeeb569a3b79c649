"""Deformable convolutions, without and with a modulation mask (Dai et al. 2017, Zhu et al. 2019)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.ops.mmcv_ops import torchvision_kernels
from mmfocal.ops.mmcv_ops.dtypes import compute_dtype, kernel_dtype
from mmfocal.ops.mmcv_ops.weighted_sums import channels_last_rows, corners_zero, sum_rows

Pair = tuple[int, int]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fills the output of a deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kH, kW).
        offset: (B, deformable_group * kH * kW * 2, h, w), as (y, x) in pixels.
        output: (B, O, h, w).
        columns: Workspace.
        ones: Unused workspace.
        kW: Width of the kernel; kH its height.
        dW: Stride; dH likewise.
        padW: Padding; padH likewise.
        dilationW: Dilation; dilationH likewise.
        group: Groups of the convolution.
        deformable_group: Groups of channels with offsets of their own.
        im2col_step: Unused.
    """
    check_offset(offset, output, weight, deformable_group)
    geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(convolve(input, weight, offset, None, geometry, group, deformable_group))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fills the gradients of the input and the offsets; arguments as in `deform_conv_forward`.

    The weight's gradient is computed at the same time and kept in the workspace, where
    `deform_conv_backward_parameters`, which MMCV calls next with the same workspace, finds it.
    """
    check_offset(offset, gradOutput, weight, deformable_group)
    geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
    grads = gradients(input, weight, offset, None, gradOutput, geometry, group, deformable_group)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds `scale` times the weight's gradient; arguments as in `deform_conv_forward`."""
    if columns.shape == gradWeight.shape:
        gradient = columns
    else:
        geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
        gradient = gradients(
            input, torch.zeros_like(gradWeight), offset, None, gradOutput, geometry, group, deformable_group
        )[1]
    gradWeight.add_(gradient, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fills the output of a modulated deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kernel_h, kernel_w).
        bias: (O,), or empty.
        ones: Unused workspace.
        offset: (B, deformable_group * kernel_h * kernel_w * 2, h, w), as (y, x) in pixels. A larger map, as DyHead
            (Dai et al. 2021) passes it, is read as the compiled operator reads it: the numbers of an image, in
            order, fill a map of the output's size.
        mask: (B, deformable_group * kernel_h * kernel_w, h, w), or larger likewise.
        output: (B, O, h, w).
        columns: Unused workspace.
        kernel_h: Height of the kernel; kernel_w its width.
        stride_h: Stride; stride_w likewise.
        pad_h: Padding; pad_w likewise.
        dilation_h: Dilation; dilation_w likewise.
        group: Groups of the convolution.
        deformable_group: Groups of channels with offsets of their own.
        with_bias: Whether there is a bias.
    """
    taps = deformable_group * kernel_h * kernel_w
    offset, mask = reinterpret(offset, 2 * taps, output), reinterpret(mask, taps, output)
    geometry = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    output.copy_(convolve(input, weight, offset, mask, geometry, group, deformable_group))
    if with_bias:
        output += bias[:, None, None]


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fills all gradients; arguments as in `modulated_deform_conv_forward`."""
    taps = deformable_group * kernel_h * kernel_w
    grads = gradients(
        input,
        weight,
        reinterpret(offset, 2 * taps, grad_output),
        reinterpret(mask, taps, grad_output),
        grad_output,
        ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)),
        group,
        deformable_group,
    )
    grad_input.copy_(grads[0])
    grad_weight.copy_(grads[1])
    for result, gradient in ((grad_offset, grads[2]), (grad_mask, grads[3])):
        whole = torch.zeros(result.shape, dtype=result.dtype, device=result.device)
        whole.flatten(1)[:, : gradient[0].numel()] = gradient.flatten(1)
        result.copy_(whole)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def check_offset(offset: Tensor, output: Tensor, weight: Tensor, deform_groups: int) -> None:
    """Raises `ConfigError` if an offset map does not fit the output."""
    expected = (output.shape[0], 2 * deform_groups * weight.shape[2] * weight.shape[3], *output.shape[2:])
    if offset.shape != expected:
        raise ConfigError(f'deform_conv2d: the offset map is {tuple(offset.shape)}; expected {expected}')


def reinterpret(maps: Tensor, channels: int, output: Tensor) -> Tensor:
    """Returns the first numbers of each image's map as a map (B, channels, h, w) of the output's size."""
    shape = (channels, *output.shape[2:])
    if maps.shape[1:] == shape and len(maps) == len(output):
        return maps
    if len(maps) != len(output) or maps[0].numel() < math.prod(shape):
        raise ConfigError(
            f'modulated_deform_conv2d: an offset or mask map is {tuple(maps.shape)}; '
            f'expected {(len(output), *shape)} or larger'
        )
    return maps.flatten(1)[:, : math.prod(shape)].reshape(len(output), *shape)


def convolve(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[Pair, Pair, Pair],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Returns the convolution's output without bias; `geometry` is (stride, padding, dilation)."""
    if not torchvision_kernels.preferred_on(input.device.type):
        return torch.cat(
            [
                convolve_image(*image, weight, geometry, groups, deform_groups)
                for image in zip(
                    input.split(1), offset.split(1), [None] * len(input) if mask is None else mask.split(1)
                )
            ]
        )
    no_mask = mask is None
    tensors = [input, weight, offset, input.new_zeros(len(input), 1) if mask is None else mask]
    input, weight, offset, mask = map(kernel_dtype, tensors)
    offset = without_nan(offset)
    bias = input.new_zeros(len(weight))
    (stride, padding, dilation) = geometry
    return torch.ops.torchvision.deform_conv2d(
        input, weight, offset, mask, bias, *stride, *padding, *dilation, groups, deform_groups, not no_mask
    )


def gradients(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    grad_output: Tensor,
    geometry: tuple[Pair, Pair, Pair],
    groups: int,
    deform_groups: int,
) -> list[Tensor]:
    """Returns the gradients of the input, the weight, the offsets and, if there is one, the mask."""
    if torchvision_kernels.preferred_on(input.device.type):
        no_mask = mask is None
        tensors = [grad_output, input, weight, offset, input.new_zeros(len(input), 1) if mask is None else mask]
        tensors = list(map(kernel_dtype, tensors))
        tensors[3] = without_nan(tensors[3])
        bias = tensors[0].new_zeros(len(weight))
        (stride, padding, dilation) = geometry
        grads = torch.ops.torchvision._deform_conv2d_backward(
            *tensors, bias, *stride, *padding, *dilation, groups, deform_groups, not no_mask
        )
        # Exactly one pixel outside, MMCV's operators have no gradient of the offset and torchvision's do. Padded layers
        # begin there, since their offsets are zeros.
        y, x = sampling_positions(tensors[3], weight.shape[2:], geometry, deform_groups)
        inside = (y > -1) & (x > -1) & (y < input.shape[2]) & (x < input.shape[3])
        grad_offset = grads[2].masked_fill(~inside.repeat_interleave(2, 2).view_as(offset), 0)
        return [grads[0], grads[1], grad_offset, *([] if no_mask else [grads[3]])]
    grad_weight = torch.zeros_like(weight, dtype=compute_dtype(weight).dtype)
    parts: list[list[Tensor]] = [[], [], []]
    for index in range(len(input)):
        image = slice(index, index + 1)
        maps = [input[image], offset[image]] + ([] if mask is None else [mask[image]])
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in (*maps, weight)]
            output = convolve_image(
                leaves[0], leaves[1], None if mask is None else leaves[2], leaves[-1], geometry, groups, deform_groups
            )
            grads = torch.autograd.grad(output, leaves, grad_output[image].to(output.dtype))
        grad_weight += grads[-1]
        for part, gradient in zip(parts, grads[:-1]):
            part.append(gradient)
    grad_maps = [torch.cat(part) for part in parts if part]
    return [grad_maps[0], grad_weight, *grad_maps[1:]]


def without_nan(offset: Tensor) -> Tensor:
    """Returns offsets that point outside the map instead of being NaN, where MMCV's operators read 0."""
    return offset.nan_to_num(nan=-1e4, posinf=torch.inf, neginf=-torch.inf)


def convolve_image(
    image: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    geometry: tuple[Pair, Pair, Pair],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Returns the output (1, O, h, w) for one image (1, C, H, W), in PyTorch; differentiable."""
    channels, height, width = image.shape[1:]
    out_channels, _, *kernel = weight.shape
    out_size = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    y, x = (each[0] for each in sampling_positions(compute_dtype(offset), kernel, geometry, deform_groups))
    corners = corners_zero(y, x, height, width)  # (deform_groups, taps, h, w, 4)
    weights = corners.weight
    if mask is not None:
        weights = weights * compute_dtype(mask).view(deform_groups, taps, *out_size, 1)
    # Rows of one group of channels each: (H * W, deform_groups) pixels.
    rows = channels_last_rows(image).reshape(height * width * deform_groups, -1)
    index = corners.pixel * deform_groups + torch.arange(deform_groups, device=image.device).view(-1, 1, 1, 1, 1)
    # Positions first, then groups, taps and channels.
    index, weights = (each.permute(2, 3, 0, 1, 4).reshape(-1, 4) for each in (index, weights))
    columns = sum_rows(rows, index, weights).view(-1, deform_groups, taps, channels // deform_groups)
    columns = columns.transpose(2, 3).reshape(-1, groups, channels // groups * taps)
    kernels = compute_dtype(weight).view(groups, out_channels // groups, -1)
    output = torch.einsum('lgk,gok->gol', columns, kernels)
    return output.reshape(1, out_channels, *out_size)


def sampling_positions(
    offset: Tensor, kernel: Sequence[int], geometry: tuple[Pair, Pair, Pair], deform_groups: int
) -> list[Tensor]:
    """Returns the rows and the columns (B, deform_groups, taps, h, w) at which the input is read."""
    offset = offset.reshape(len(offset), deform_groups, kernel[0] * kernel[1], 2, *offset.shape[2:])
    positions = []
    for axis in (0, 1):
        stride, padding, dilation = (pair[axis] for pair in geometry)
        tap = torch.arange(kernel[axis], device=offset.device) * dilation - padding
        tap = tap[:, None].expand(*kernel) if axis == 0 else tap.expand(*kernel)
        place = torch.arange(offset.shape[4 + axis], device=offset.device) * stride
        place = place[:, None] if axis == 0 else place
        positions.append((tap.reshape(-1, 1, 1) + place) + offset[:, :, :, axis])
    return positions
