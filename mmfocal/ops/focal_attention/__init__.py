"""Focal self-attention as one operator, https://arxiv.org/abs/2107.00641, section 3.2."""

from mmfocal.ops.focal_attention.backends import BACKENDS
from mmfocal.ops.focal_attention.functional import focal_attention, focal_attention_qkvpacked
from mmfocal.ops.focal_attention.geometry import Layout, relative_index
from mmfocal.ops.focal_attention.torch_library import focal_attention_flops

__all__ = [
    'BACKENDS',
    'Layout',
    'focal_attention',
    'focal_attention_flops',
    'focal_attention_qkvpacked',
    'relative_index',
]
