"""Checkpoints: loading that never runs code. Importing this room makes MMEngine load that way too."""
from .safe_loading import load_checkpoint

__all__ = ['load_checkpoint']
