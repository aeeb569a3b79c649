"""CARAFE (Wang et al. 2019): upsampling with a predicted kernel for each output pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import compute_dtype


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fills the output, and `rfeatures` with the features, which the backward gets instead of them.

    Args:
        features: (B, C, H, W).
        masks: Kernels (B, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor).
        rfeatures: Of the features' shape.
        routput: Unused workspace.
        rmasks: Unused workspace.
        output: (B, C, H * scale_factor, W * scale_factor).
        kernel_size: Odd.
        group_size: Groups of channels with kernels of their own.
        scale_factor: Of the upsampling.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fills the gradients of the features and of the masks; arguments as in `carafe_forward`."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Fills the output; arguments as in `carafe_forward`."""
    padded, kernels = blocks(features, masks, kernel_size, group_size, scale_factor)
    height, width = features.shape[2:]
    total = padded.new_zeros(*padded.shape[:3], height, scale_factor, width, scale_factor)
    for tap in range(kernel_size**2):
        y, x = divmod(tap, kernel_size)
        shifted = padded[:, :, :, y : y + height, x : x + width]
        total.addcmul_(shifted[:, :, :, :, None, :, None], kernels[:, :, tap, None])
    output.copy_(total.view_as(output))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fills the gradients of the features and of the masks; arguments as in `carafe_forward`."""
    padded, kernels = blocks(features, masks, kernel_size, group_size, scale_factor)
    height, width = features.shape[2:]
    grad = compute_dtype(top_grad).reshape(*padded.shape[:3], height, scale_factor, width, scale_factor)
    grad_padded, grad_kernels = torch.zeros_like(padded), torch.zeros_like(kernels)
    for tap in range(kernel_size**2):
        y, x = divmod(tap, kernel_size)
        window = (slice(None),) * 3 + (slice(y, y + height), slice(x, x + width))
        grad_padded[window] += (grad * kernels[:, :, tap, None]).sum((4, 6))
        grad_kernels[:, :, tap] = (grad * padded[window][:, :, :, :, None, :, None]).sum(2)
    border = (kernel_size - 1) // 2
    inner = grad_padded[:, :, :, border : border + height, border : border + width]
    bottom_grad.copy_(inner.reshape(bottom_grad.shape))
    mask_grad.copy_(grad_kernels.reshape(mask_grad.shape))


def blocks(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> tuple[Tensor, Tensor]:
    """Returns padded features (B, groups, C / groups, ...) and kernels (B, groups, taps, H, scale, W, scale)."""
    batch, channels, height, width = features.shape
    padded = F.pad(compute_dtype(features), [(kernel_size - 1) // 2] * 4)
    kernels = compute_dtype(masks).reshape(batch, groups, kernel_size**2, height, scale, width, scale)
    return padded.view(batch, groups, channels // groups, *padded.shape[2:]), kernels
