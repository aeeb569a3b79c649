from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Geometry, Layout
from .windows import all_tokens, window_partition, window_reverse


def gather_attention(q: Tensor, k: Tensor, v: Tensor, pooled_kv: Sequence[Tuple[Tensor, Tensor]], bias: Optional[Tensor],
                     layout: Layout, geometry: Geometry, dropout_p: float) -> Tensor:
    """Focal attention as one gather of keys and values, then PyTorch's fused attention; see `focal_attention`."""
    batch, height, width, heads, head_dim = q.shape
    queries = window_partition(q, layout.window_size).flatten(0, 1)  # (B·n, t, heads, head_dim)
    tokens = all_tokens(torch.stack([k, v], 3), [torch.stack(pair, 3) for pair in pooled_kv])
    index = geometry.key_index
    gathered = tokens.index_select(1, index.flatten()).view(batch * len(index), -1, 2, heads, head_dim)

    mask = geometry.mask[:, None].to(q.dtype)  # (n, 1, 1 or t, keys)
    if bias is not None:
        mask = mask + bias.to(q.dtype)
    mask = mask.expand(batch, -1, heads, layout.tokens, -1).reshape(-1, heads, layout.tokens, layout.keys)
    keys, values = gathered.unbind(2)
    out = F.scaled_dot_product_attention(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask, dropout_p)
    out = out.transpose(1, 2).unflatten(0, (batch, -1))  # (B, n, t, heads, head_dim)
    return window_reverse(out, layout.window_size, height, width)
