"""Focal self-attention as one operator, https://arxiv.org/abs/2107.00641, section 3.2."""
from .functional import BACKENDS, focal_attention
from .geometry import Layout, relative_index

__all__ = ['BACKENDS', 'Layout', 'focal_attention', 'relative_index']
