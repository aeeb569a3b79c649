"""A font that has the letters of class names, in any script."""

import logging
from collections.abc import Iterable

import matplotlib
from matplotlib import font_manager
from mmengine.logging import print_log


def use_font_for(names: Iterable[str]) -> str | None:
    """Makes matplotlib draw texts with an installed font that has the letters of names.

    Logs a warning if no installed font has all of them.

    Args:
        names: Texts to draw.

    Returns:
        The font's name if it is another than matplotlib's own, else None.
    """
    letters = {ord(letter) for name in names for letter in name if not letter.isspace()}
    missing = letters - _letters_of(font_manager.findfont(font_manager.FontProperties(family=['sans-serif'])))
    if not missing:
        return None
    best, left = None, missing
    for font in font_manager.fontManager.ttflist:
        absent = letters - _letters_of(font.fname)
        if len(absent) < len(left):
            best, left = font.name, absent
        if not left:
            break
    if best:
        matplotlib.rcParams['font.sans-serif'] = [best, *matplotlib.rcParams['font.sans-serif']]
    if left:
        some = ''.join(map(chr, sorted(left)[:10]))
        print_log(
            f'pictures show boxes for letters such as {some}: no installed font has them; install one, such as Noto '
            '(apt install fonts-noto-cjk), and remove the cache of matplotlib',
            'current',
            logging.WARNING,
        )
    return best


def _letters_of(path: str) -> set[int]:
    try:
        return set(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return set()
