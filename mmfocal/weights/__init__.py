"""Checkpoints: loading that never runs code. Importing this room makes MMEngine load that way too."""

from mmfocal.weights.safe_loading import load_checkpoint

__all__ = ['load_checkpoint']
