"""Bias tables for new keys and for other window sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def extend_window_table(table: Tensor, window_size: int, ring: int) -> Tensor:
    """Continues a window's relative table over its ring: an offset outside the table takes the nearest one's bias.

    Args:
        table: (heads, (2·window_size − 1)²).
        window_size: Side of a window, in tokens.
        ring: Tokens of the ring, (window_size + 2e)² − window_size².

    Returns:
        (heads, window_size², ring), row-major in the region around the window.
    """
    limit = window_size - 1
    rows, cols = (offset.clamp(-limit, limit) + limit for offset in ring_offsets(window_size, ring, table.device))
    return table[:, rows * (2 * window_size - 1) + cols]


def ring_offsets(window_size: int, ring: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Returns rows and columns between a window's queries and its ring, query − key, each (window_size², ring)."""
    expand = (round((ring + window_size**2) ** 0.5) - window_size) // 2
    query = torch.arange(window_size, device=device)
    key = torch.arange(-expand, window_size + expand, device=device)
    own = (key >= 0) & (key < window_size)
    key_row, key_col = torch.meshgrid(key, key, indexing='ij')
    outside = ~(own[:, None] & own)
    query_row, query_col = torch.meshgrid(query, query, indexing='ij')
    return (
        query_row.reshape(-1, 1) - key_row[outside],
        query_col.reshape(-1, 1) - key_col[outside],
    )


def resize_relative_table(table: Tensor, length: int) -> Tensor:
    """Interpolates a square relative table bicubically, as Swin's code does.

    Args:
        table: (heads, side²).
        length: The new side².
    """
    old, new = round(table.shape[1] ** 0.5), round(length**0.5)
    square = table.reshape(1, -1, old, old)
    return F.interpolate(square, size=(new, new), mode='bicubic', align_corners=False).reshape(-1, length)


def resize_ring_table(table: Tensor, tokens: int, ring: int) -> Tensor:
    """Interpolates a ring's table by relative offsets: their mean biases, bicubically, at the new window's offsets.

    Args:
        table: (heads, window_size², ring).
        tokens: The new window_size².
        ring: The new ring's tokens.

    Returns:
        (heads, tokens, ring).
    """
    old, new = round(table.shape[1] ** 0.5), round(tokens**0.5)
    rows, cols = ring_offsets(old, table.shape[2], table.device)
    reach = int(rows.max())
    side = 2 * reach + 1
    index = ((rows + reach) * side + cols + reach).flatten()
    sums = table.new_zeros(len(table), side**2).index_add_(1, index, table.flatten(1))
    counts = table.new_zeros(side**2).index_add_(0, index, table.new_ones(len(index)))
    seen = counts > 0
    # offsets that no query has to a token of the ring, around 0, take the mean: they are needed next to others only
    mean = sums.sum(1, keepdim=True) / counts.sum()
    relative = torch.where(seen, sums / counts.clamp(min=1), mean)

    rows, cols = ring_offsets(new, ring, table.device)
    new_reach = int(rows.max())
    new_side = 2 * new_reach + 1
    resized = resize_relative_table(relative, new_side**2)
    return resized[:, (rows + new_reach) * new_side + cols + new_reach]


def resize_pool_weight(weight: Tensor, length: int) -> Tensor:
    """Interpolates the weights of a pooled sub-window bicubically and keeps their sum.

    Args:
        weight: (1, side²).
        length: The new side².
    """
    resized = resize_relative_table(weight, length)
    total = resized.sum()
    return resized * (weight.sum() / total) if total.abs() > 1e-6 else resized


def resize(name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
    """Interpolates a parameter that depends on the window size.

    Args:
        name: Its name in a backbone's state dict.
        value: The parameter.
        shape: The shape that the model has.

    Returns:
        The parameter in that shape, or None if it is not one that can be interpolated.
    """
    if value.dim() != len(shape) or value.shape[0] != shape[0]:
        return None
    if name.endswith('.window_bias_table') or '.pooled_bias_tables.' in name:
        return resize_relative_table(value, shape[1])
    if name.endswith('.ring_bias_table'):
        return resize_ring_table(value, shape[1], shape[2])
    if '.pool_layers.' in name and name.endswith('.weight'):
        return resize_pool_weight(value, shape[1])
    return None
