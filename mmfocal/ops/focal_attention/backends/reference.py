"""Focal attention as its definition reads, in any dtype; autograd differentiates it, also twice."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.focal_attention.geometry import Layout, all_tokens, get_geometry, window_partition, window_reverse

SAVES_LSE = False


def unsupported(q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    """Returns None: this backend takes every input."""
    return None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_kv: Sequence[tuple[Tensor, Tensor]],
    bias: Tensor | None,
    layout: Layout,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Computes focal attention; see `focal_attention` for the arguments.

    Returns:
        The output, (B, H, W, heads, head_dim), and an empty tensor.
    """
    _, height, width, _, _ = q.shape
    weights = attention_weights(q, k, [pair[0] for pair in pooled_kv], bias, layout)
    if dropout_p:  # else an exported graph would have a dropout in training mode
        weights = F.dropout(weights, dropout_p)
    geometry = get_geometry(layout, height, width, q)
    values = all_tokens(v, [pair[1] for pair in pooled_kv])[:, geometry.key_index]
    out = torch.einsum('bnhqk,bnkhc->bnqhc', weights, values)
    return window_reverse(out, layout.window_size, height, width), q.new_empty(0)


def attention_weights(q: Tensor, k: Tensor, pooled_k: Sequence[Tensor], bias: Tensor | None, layout: Layout) -> Tensor:
    """Computes how much each query attends to each of its window's keys; see `focal_attention` for the arguments.

    Returns:
        (B, n, heads, window_size², keys), with windows, queries and keys as `Geometry` orders them; sums over keys
        are 1.
    """
    _, height, width, _, head_dim = q.shape
    geometry = get_geometry(layout, height, width, q)
    queries = window_partition(q, layout.window_size)  # (B, n, t, heads, head_dim)
    keys = all_tokens(k, pooled_k)[:, geometry.key_index]  # (B, n, keys, heads, head_dim)

    logits = torch.einsum('bnqhc,bnkhc->bnhqk', queries * head_dim**-0.5, keys)
    logits = logits + geometry.mask[:, None, None].to(logits.dtype)
    if geometry.shift_mask is not None:
        own = logits[..., : layout.tokens] + geometry.shift_mask[geometry.shift_kind][:, None].to(logits.dtype)
        logits = torch.cat([own, logits[..., layout.tokens :]], -1)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return logits.softmax(-1)
