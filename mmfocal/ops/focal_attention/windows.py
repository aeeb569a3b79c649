from collections.abc import Sequence

import torch
from torch import Tensor


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """(B, H, W, ...) → (B, n, window_size², ...), windows and their tokens in row-major order."""
    batch, height, width, *rest = x.shape
    x = x.reshape(batch, height // window_size, window_size, width // window_size, window_size, *rest).transpose(2, 3)
    return x.reshape(batch, -1, window_size**2, *rest)


def window_reverse(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """(B, n, window_size², ...) → (B, height, width, ...): the inverse of `window_partition`."""
    batch, _, _, *rest = windows.shape
    x = windows.reshape(batch, height // window_size, width // window_size, window_size, window_size, *rest)
    return x.transpose(2, 3).reshape(batch, height, width, *rest)


def all_tokens(fine: Tensor, pooled: Sequence[Tensor]) -> Tensor:
    """The list of tokens that `Geometry.key_index` points into.

    Args:
        fine (Tensor): (B, H, W, heads, head_dim).
        pooled (Sequence[Tensor]): (B, h, w, heads, head_dim) each.

    Returns:
        Tensor: (B, H·W + Σ h·w + 1, heads, head_dim); the last token is zero.
    """
    outside = fine.new_zeros(fine.shape[0], 1, *fine.shape[3:])
    return torch.cat([fine.flatten(1, 2), *(level.flatten(1, 2) for level in pooled), outside], 1)
