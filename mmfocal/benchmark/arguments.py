"""Types of command-line arguments; argparse reports what they refuse."""

import argparse

LEAST_SIDE = 32  # pixels; the last stage of a backbone has a stride of 32


def positive_int(text: str) -> int:
    """Parses an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not an integer of at least 1')
    return int(text)


def image_side(text: str) -> int:
    """Parses a width or height in pixels."""
    if not text.isdecimal() or int(text) < LEAST_SIDE:
        raise argparse.ArgumentTypeError(f'{text!r} is not a width or height of at least {LEAST_SIDE} pixels')
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Parses HEIGHTxWIDTH: '800x1216' → (800, 1216)."""
    sides = text.replace('×', 'x').split('x')
    if len(sides) != 2 or not all(side.isdecimal() and int(side) >= LEAST_SIDE for side in sides):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not HEIGHTxWIDTH with at least {LEAST_SIDE} pixels a side, e.g. 800x1216'
        )
    return int(sides[0]), int(sides[1])
