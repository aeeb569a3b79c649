"""Types of command-line arguments; argparse reports what they refuse."""

import argparse
from collections.abc import Callable

LEAST_SIDE = 32  # pixels; the last stage of a backbone has a stride of 32


def at_least(least: int) -> Callable[[str], int]:
    """Returns a parser of integers that are not below `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not an integer of at least {least}')
        return int(text)

    return parse


def image_size(text: str) -> tuple[int, int]:
    """Parses HEIGHTxWIDTH: '800x1216' → (800, 1216)."""
    sides = text.replace('×', 'x').split('x')
    if len(sides) != 2 or not all(side.isdecimal() and int(side) >= LEAST_SIDE for side in sides):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not HEIGHTxWIDTH with at least {LEAST_SIDE} pixels a side, e.g. 800x1216'
        )
    return int(sides[0]), int(sides[1])
