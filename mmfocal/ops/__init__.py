"""Operators; they need torch alone."""
from .focal_attention import focal_attention

__all__ = ['focal_attention']
