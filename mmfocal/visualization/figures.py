"""Colours of the pictures, and writing them."""

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically

_COLOURS = colormaps['inferno'](np.linspace(0, 1, 256))
_COLOURS[:, 3] = np.linspace(0, 1.7, 256).clip(max=0.85)  # the image is visible through low values
HEAT = ListedColormap(_COLOURS)
MARKS = '#00e5ff'  # cyan, which no heatmap contains


def check_picture_name(path: str | Path, option: str = '--out') -> None:
    """Checks that matplotlib can write a file of this name.

    Raises:
        ConfigError: If it cannot.
    """
    if Path(path).suffix[1:] not in Figure().canvas.get_supported_filetypes():
        raise ConfigError(f'{option}: matplotlib cannot write {path}; use the suffix .png or .jpg')


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> None:
    """Writes a figure, completely or not at all.

    Raises:
        SavingError: If it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:], dpi=dpi)
    write_atomically(path, content.getvalue())


def dimmed(pixels: np.ndarray) -> np.ndarray:
    """Returns an image (H, W, 3) in dark grey, on which heat is visible."""
    return np.repeat(pixels.mean(2, keepdims=True) * 0.55, 3, 2).astype(np.uint8)
