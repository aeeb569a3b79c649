"""Measuring: speed and memory of the backbones and of the attention operator."""
