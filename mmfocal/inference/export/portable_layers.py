"""Layers that compute what PyTorch's and OpenMMLab's do, in operators that ONNX has for maps of any size."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class AdaptiveAvgPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products: ONNX has it only where the output's size divides the input's.

    Args:
        output_size: Rows and columns of the output.
    """

    def __init__(self, output_size: int | tuple[int, int]):
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, rows, columns)."""
        rows, cols = (_bins(x.shape[dim], self.output_size[dim - 2], x) for dim in (2, 3))
        return rows @ x @ cols.transpose(0, 1)


def _bins(length: int, count: int, x: Tensor) -> Tensor:
    """Returns the weight of each position in each bin, (count, length)."""
    index = torch.arange(count, device=x.device)[:, None]
    # bin i reaches from ⌊i·length/count⌋ to ⌈(i + 1)·length/count⌉
    start = torch.div(index * length, count, rounding_mode='floor')
    stop = torch.div((index + 1) * length + count - 1, count, rounding_mode='floor')
    position = torch.arange(length, device=x.device)
    inside = ((position >= start) & (position < stop)).to(x.dtype)
    return inside / (stop - start).to(x.dtype)


class Upsample(nn.Module):
    """MMSegmentation's layer of that name, which takes the sizes that it has computed once for constants in a trace.

    Args:
        layer: The layer, with a scale factor.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.scale_factor, self.mode, self.align_corners = layer.scale_factor, layer.mode, layer.align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H·scale, W·scale)."""
        return F.interpolate(x, scale_factor=self.scale_factor, mode=self.mode, align_corners=self.align_corners)


def replace_layers(module: nn.Module) -> None:
    """Replaces the layers in a module that ONNX lacks or that have one size only by those above."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):  # one pixel, ONNX has
            setattr(module, name, AdaptiveAvgPool(child.output_size))
        elif type(child).__module__ == 'mmseg.models.utils.wrappers' and not child.size:
            setattr(module, name, Upsample(child))
        else:
            replace_layers(child)
