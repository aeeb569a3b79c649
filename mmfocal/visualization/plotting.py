"""Axes and colours of the plots on pages, and SVG whose colours are a page's CSS variables."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each stands for the CSS variable of its name; `to_svg` replaces it.
VARIABLES = ('ink', 'soft', 'rule', 'paper', 'ResNet', 'ResNeXt', 'PVT', 'ViL', 'ViT', 'CvT', 'Swin', 'Focal')
CSS_COLOURS = {name: f'#0000{number:02x}' for number, name in enumerate(VARIABLES, 1)}
SVG = 'http://www.w3.org/2000/svg'
XLINK = 'http://www.w3.org/1999/xlink'
LEFT_OUT = (  # of matplotlib's SVG: the page has its own font and styles
    r'font-family: [^;]+; ',
    r'<style.*?</style>',
    r'<metadata>.*?</metadata>',
    r' transform="rotate\(-0 [^)]*\)"',
)
PIXELS_PER_INCH = 72  # the user unit of matplotlib's SVG
WIDTH, HEIGHT = 560, 320  # pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 22, 44  # margins around the axes

STYLE = {
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.axisbelow': True,
    'axes.autolimit_mode': 'round_numbers',
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmfocal',
}
PLOT_STYLE = {
    'font.size': 11.5,
    'text.color': CSS_COLOURS['ink'],
    'axes.edgecolor': CSS_COLOURS['soft'],
    'axes.labelcolor': CSS_COLOURS['soft'],
    'axes.spines.left': False,
    'axes.grid': True,
    'axes.grid.axis': 'y',
    'axes.xmargin': 0,
    'axes.ymargin': 0,
    'grid.color': CSS_COLOURS['rule'],
    'xtick.color': CSS_COLOURS['soft'],
    'ytick.color': CSS_COLOURS['soft'],
    'xtick.major.size': 0,
    'xtick.major.pad': 8,
    'ytick.major.pad': 7,
    'ytick.major.size': 0,
    'lines.linewidth': 1.8,
}


@contextmanager
def style(**settings: object) -> Iterator[None]:
    """Applies the style, and further settings of matplotlib, while figures are made and drawn."""
    with matplotlib.rc_context({**STYLE, **settings}):
        yield


def pixel_figure(width: int, height: int) -> Figure:
    """Makes a figure whose size is in pixels of an SVG."""
    return Figure((width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH, facecolor='none')


def new_axes(width: int, height: int, x_name: str, y_name: str) -> tuple[Figure, Axes]:
    """Makes a figure of a size in pixels, with the names of its axes at their ends; to be used within `style`."""
    figure = pixel_figure(width, height)
    size = (width - LEFT - RIGHT) / width, (height - TOP - BOTTOM) / height
    axes = figure.add_axes((LEFT / width, BOTTOM / height, *size))
    axes.locator_params(nbins=6, steps=[1, 2, 2.5, 5, 10])
    axes.set_xlabel(x_name, loc='right')
    axes.set_title(
        y_name, loc='left', x=(4 - LEFT) / (width - LEFT - RIGHT), pad=9, fontsize='medium', color=CSS_COLOURS['soft']
    )
    return figure, axes


def label_bars(axes: Axes, labels: list[str], **options: object) -> None:
    """Writes a label at the end of each bar drawn last."""
    axes.bar_label(axes.containers[-1], labels, padding=4, **options)


def to_svg(figure: Figure, label: str, titles: dict[str, str] | None = None) -> str:
    """Draws a figure as an SVG element for an HTML page.

    Args:
        figure: Its colours are of `CSS_COLOURS`. An artist's gid becomes the class of its element.
        label: Describes the figure to those who cannot see it.
        titles: gid of an artist → its tooltip.
    """
    stream = StringIO()
    figure.savefig(
        stream, format='svg', transparent=True, metadata=dict(Date=None, Creator=None, Format=None, Type=None)
    )
    text = re.sub('|'.join(LEFT_OUT), '', stream.getvalue(), flags=re.S)
    for name, colour in CSS_COLOURS.items():
        text = text.replace(colour, f'var(--{name})')
    root = ElementTree.fromstring(text)
    gids = {artist.get_gid() for artist in figure.findobj()} - {None}
    for element in root.iter():
        if not (element.text or '').strip():
            element.text = None
        element.tail = None
        if element.tag == f'{{{SVG}}}g':
            name = element.attrib.pop('id', None)  # figures of one page must not share ids
            if name in gids:
                element.set('class', name.rstrip('0123456789'))
            if titles and name in titles:
                title = ElementTree.Element(f'{{{SVG}}}title')
                title.text = titles[name]
                element.insert(0, title)
    for name in ('width', 'height', 'version'):
        root.attrib.pop(name, None)
    root.attrib.update({'role': 'img', 'aria-label': label})
    ElementTree.register_namespace('', SVG)
    ElementTree.register_namespace('xlink', XLINK)
    return ElementTree.tostring(root, encoding='unicode')
