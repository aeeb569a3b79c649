"""Operators."""

from mmfocal.ops.focal_attention import Layout, focal_attention, focal_attention_flops, focal_attention_qkvpacked

__all__ = ['Layout', 'focal_attention', 'focal_attention_flops', 'focal_attention_qkvpacked']
