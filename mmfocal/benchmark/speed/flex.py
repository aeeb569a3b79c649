"""Focal attention written with PyTorch's FlexAttention: a baseline of the operator's speed.

A block-sparse mask selects each window's keys, and a score function adds the bias. Tokens are ordered by windows, so
that the blocks are sparse. On the CPU, PyTorch compiles FlexAttention for inference only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmfocal.benchmark.speed.cases import Case
from mmfocal.ops.focal_attention.geometry import own_tokens_first


def flex_operator(case: Case, bias: Tensor) -> Callable[..., Tensor]:
    """Builds the operator of a case.

    Args:
        case: With `what` 'attention', one pooled level and the border 'wrap'.
        bias: (heads, window_size², keys), as for `focal_attention`.

    Returns:
        A function of (q, k, v, pooled_kv).
    """
    # PyTorch has it since 2.5
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    (height, width), (heads, head_dim) = case.map_size, case.heads
    ws = case.layout.window_size
    visible, bias_index = _pattern(case, bias.device)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query, key)

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + bias[head, query % ws**2, bias_index(query, key)]

    keys = height * width + height // ws * (width // ws)
    block_mask = create_block_mask(mask, None, None, height * width, keys, device=bias.device, _compile=True)
    attend = torch.compile(flex_attention, dynamic=False)

    def by_windows(x: Tensor) -> Tensor:
        """(B, H, W, heads, head_dim) → (B, heads, H·W, head_dim)."""
        x = x.unflatten(2, (-1, ws)).unflatten(1, (-1, ws))
        return x.permute(0, 5, 1, 3, 2, 4, 6).reshape(len(x), heads, -1, head_dim)

    def operator(q: Tensor, k: Tensor, v: Tensor, pooled_kv: Any) -> Tensor:
        ((pooled_k, pooled_v),) = pooled_kv
        k, v = (
            torch.cat([by_windows(fine), pooled.flatten(1, 2).transpose(1, 2)], 2)
            for fine, pooled in ((k, pooled_k), (v, pooled_v))
        )
        out = attend(by_windows(q), k, v, score_mod=add_bias, block_mask=block_mask)
        out = out.view(len(q), heads, height // ws, width // ws, ws, ws, head_dim)
        return out.permute(0, 2, 4, 3, 5, 1, 6).reshape(q.shape)

    return operator


def _pattern(
    case: Case, device: torch.device
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Returns two functions of (query, key): whether the query sees the key, and the key's place in the bias."""
    layout, (height, width) = case.layout, case.map_size
    ws, cols, fine = layout.window_size, width // layout.window_size, height * width
    side, focal_window = ws + 2 * layout.expand_size, layout.focal_window
    place = own_tokens_first(layout, device).argsort()  # position in the fine region → index among the keys

    def offsets(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Positions of the key in the fine region and in the pooled region of the query's window."""
        row, col = query // ws**2 // cols, query // ws**2 % cols
        window, token = key // ws**2, key % ws**2
        y = (window // cols - row) * ws + token // ws + layout.expand_size
        x = (window % cols - col) * ws + token % ws + layout.expand_size
        if height > ws:  # a single row of windows does not wrap onto itself
            y = y % height
        if width > ws:
            x = x % width
        pooled, reach = key - fine, focal_window // 2
        return y, x, pooled // cols - row + reach, pooled % cols - col + reach

    def visible(query: Tensor, key: Tensor) -> Tensor:
        y, x, pooled_y, pooled_x = offsets(query, key)
        in_fine = (y >= 0) & (y < side) & (x >= 0) & (x < side)
        in_pooled = (pooled_y >= 0) & (pooled_y < focal_window) & (pooled_x >= 0) & (pooled_x < focal_window)
        return torch.where(key < fine, in_fine, in_pooled)

    def bias_index(query: Tensor, key: Tensor) -> Tensor:
        y, x, pooled_y, pooled_x = offsets(query, key)
        in_fine = place[y.clamp(0, side - 1) * side + x.clamp(0, side - 1)]
        pooled_y, pooled_x = pooled_y.clamp(0, focal_window - 1), pooled_x.clamp(0, focal_window - 1)
        return torch.where(key < fine, in_fine, side**2 + pooled_y * focal_window + pooled_x)

    return visible, bias_index
