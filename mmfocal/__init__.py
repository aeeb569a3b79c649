"""Focal Transformer for dense prediction on OpenMMLab."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfocal.inference import Predictor as Predictor

__version__ = '0.1.0'

# The folder with the configs: a link to configs/ in a checkout, part of an installed package.
CONFIGS = Path(__file__).parent.joinpath('.mim/configs').resolve()


def __getattr__(name: str) -> Any:
    if name != 'Predictor':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmfocal.inference import Predictor  # imports OpenMMLab, which the operator alone does not need

    return Predictor
