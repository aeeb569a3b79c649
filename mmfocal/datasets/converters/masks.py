"""Masks in COCO's run lengths."""

from typing import Any

import numpy as np
from pycocotools import mask as run_lengths


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Returns the run lengths of a mask (H, W) as COCO's files have them."""
    return as_text(run_lengths.encode(np.asfortranarray(mask)))


def encode_polygons(polygons: list[list[float]], height: int, width: int) -> dict[str, Any]:
    """Returns the run lengths of polygons that are drawn together."""
    return as_text(run_lengths.merge(run_lengths.frPyObjects(polygons, height, width)))


def area(mask: dict[str, Any]) -> float:
    """Returns the pixels of a mask in run lengths."""
    return float(run_lengths.area(mask))


def box(mask: dict[str, Any]) -> tuple[float, float, float, float]:
    """Returns x, y, width and height of the box around a mask in run lengths."""
    x, y, width, height = map(float, run_lengths.toBbox(mask))
    return x, y, width, height


def as_text(encoded: dict[str, Any]) -> dict[str, Any]:
    """Returns run lengths with what JSON can write."""
    return dict(size=list(map(int, encoded['size'])), counts=encoded['counts'].decode())
