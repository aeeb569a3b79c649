"""Focal Transformer for dense prediction on OpenMMLab."""

from pathlib import Path

__version__ = '0.1.0'

# The folder with the configs: a link to configs/ in a checkout, part of an installed package.
CONFIGS = Path(__file__).parent.joinpath('.mim/configs').resolve()
