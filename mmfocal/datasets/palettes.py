"""Colours of classes in pictures."""

import colorsys
from collections.abc import Sequence


def make_palette(number: int, first: Sequence[Sequence[int]] = ()) -> list[tuple[int, int, int]]:
    """Returns one colour per class.

    Args:
        number: Number of classes.
        first: Colours of the first classes, RGB from 0 to 255. Default: none.
    """
    colours = [tuple(colour) for colour in first[:number]]
    golden = 0.618034  # steps of it keep hues apart, whatever their number
    for index in range(len(colours), number):
        hue, value = index * golden % 1, 0.95 - 0.15 * (index // 7 % 4)
        colours.append(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.6 + 0.1 * (index % 4), value)))
    return colours
