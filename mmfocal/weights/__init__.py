"""Checkpoints: loading that never runs code, and conversions of weights from other sources."""

from mmfocal.weights.loading import load_checkpoint, register_safe_loaders

__all__ = ['load_checkpoint', 'register_safe_loaders']
