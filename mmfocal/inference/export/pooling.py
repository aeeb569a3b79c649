"""Adaptive average pooling as two matrix products: ONNX has it only where the output's size divides the input's."""

import torch
import torch.nn as nn
from torch import Tensor


class AdaptiveAvgPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` for maps of any size.

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
    """Returns the weight of each position in each bin, (count, length): bin i is ⌊i·length/count⌋ to ⌈(i+1)·length/count⌉."""
    index = torch.arange(count, device=x.device)[:, None]
    start = torch.div(index * length, count, rounding_mode='floor')
    stop = torch.div((index + 1) * length + count - 1, count, rounding_mode='floor')
    position = torch.arange(length, device=x.device)
    inside = ((position >= start) & (position < stop)).to(x.dtype)
    return inside / (stop - start).to(x.dtype)


def replace_adaptive_pooling(module: nn.Module) -> None:
    """Replaces each `nn.AdaptiveAvgPool2d` in a module, but those to one pixel, which ONNX has."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            setattr(module, name, AdaptiveAvgPool(child.output_size))
        else:
            replace_adaptive_pooling(child)
