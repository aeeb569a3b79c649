"""The report's plots as inline SVG, in the page's colours."""

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfocal.visualization.plotting import (
    CSS_COLOURS,
    HEIGHT,
    LEFT,
    PLOT_STYLE,
    RIGHT,
    WIDTH,
    label_bars,
    new_axes,
    style,
    to_svg,
)

FAMILIES = ('ResNet', 'ResNeXt', 'PVT', 'ViL', 'ViT', 'CvT', 'Swin', 'Focal')
Point = tuple[float, float, str]  # x, y and what it is
Box = tuple[float, float, float, float]  # left, top, right and baseline of a label


def family(backbone: str) -> str:
    """Returns the family of a backbone: ResNeXt for ResNeXt101-32x4d, Swin for Swin-Tiny, ViT for DeiT-Small/16."""
    name = backbone.split('-')[0].rstrip('0123456789').replace('DeiT', 'ViT')
    return name if name in FAMILIES else 'ResNet'


def plot_scatter(series: dict[str, dict[str, list[Point]]], x_name: str, y_name: str, label: str) -> str | None:
    """Draws a line through the points of each family: solid for ours, dashed with hollow points for the paper's.

    Args:
        series: 'ours' and 'paper' → family → points.
        x_name: Name of the x axis.
        y_name: Name of the y axis.
        label: Describes the plot to those who cannot see it.

    Returns:
        None if there is nothing to draw.
    """
    points = [(x, y, what) for families in series.values() for found in families.values() for x, y, what in found]
    if not points:
        return None
    titles = {}
    with style(**PLOT_STYLE):
        figure, axes = new_axes(WIDTH, HEIGHT, x_name, y_name)
        for kind, families in series.items():
            for name, found in families.items():
                _line(axes, [(x, y) for x, y, _ in sorted(found)], name, kind)
        for kind, families in series.items():
            for name, found in families.items():
                for x, y, what in found:
                    source = ' (the paper’s)' if kind == 'paper' else ''
                    titles[f'point{len(titles)}'] = f'{what}, {name}{source}: {y:.1f} at {x:.4g}'
                    _point(axes, x, y, name, kind, list(titles)[-1])
        _label_points(figure, axes, points)
        return to_svg(figure, label, titles)


def _line(axes: Axes, points: list[tuple[float, float]], name: str, kind: str) -> None:
    dashes = dict(linestyle=(0, (4, 4)), linewidth=1.3) if kind == 'paper' else {}
    axes.plot(*zip(*points), color=CSS_COLOURS[name], **dashes)


def _point(axes: Axes, x: float, y: float, name: str, kind: str, gid: str) -> None:
    colour, paper = CSS_COLOURS[name], CSS_COLOURS['paper']
    face, edge, width = (paper, colour, 1.6) if kind == 'paper' else (colour, paper, 1.2)
    axes.plot(x, y, 'o', markersize=9, color=face, mec=edge, mew=width, clip_on=False, gid=gid)


def _label_points(figure: Figure, axes: Axes, points: list[Point]) -> None:
    """Writes each name near its highest point."""
    best: dict[str, tuple[float, float]] = {}
    for x, y, what in points:
        if what not in best or y > best[what][1]:
            best[what] = x, y
    axes.autoscale_view()
    width, height = figure.bbox.size

    def pixels(x: float, y: float) -> tuple[float, float]:
        x, y = axes.transData.transform((x, y))
        return x, height - y

    dots = [pixels(x, y) for x, y, _ in points]
    placed: list[Box] = []
    for what, point in sorted(best.items(), key=lambda item: -item[1][1]):
        placed.append(label_box(what, *pixels(*point), width, dots, placed))
        left, _, _, base = placed[-1]
        figure.text(left / width, 1 - base / height, what, parse_math=False, gid=f'label{len(placed)}')


def label_box(text: str, x: float, y: float, width: float, dots: list[tuple[float, float]], placed: list[Box]) -> Box:
    """Returns a place for a label near a point, on no point and no other label, in pixels from the top left."""
    length = 6.2 * len(text)
    boxes = [
        (left, base - 10, left + length, base)
        for step in range(6)
        for base in (y - 8 - 13 * step, y + 18 + 13 * step)
        for left in (x + 8, x - 8 - length)
        if left >= LEFT and left + length <= width and base >= 12
    ]

    def free(box: Box) -> bool:
        left, top, right, base = box
        near = any(left - 6 < dot_x < right + 6 and top - 6 < dot_y < base + 6 for dot_x, dot_y in dots)
        return not near and not any(
            left < other[2] and other[0] < right and top < other[3] + 3 and other[1] < base + 3 for other in placed
        )

    return next(filter(free, boxes), boxes[0])


def plot_gains(gains: list[tuple[str, dict[str, dict[str, float]]]], y_name: str, label: str) -> str | None:
    """Draws the gains of each method as bars: filled for ours, hollow for the paper's.

    Args:
        gains: Method, and the family it gains over → 'ours', 'paper' → the gain.
        y_name: Name of the y axis.
        label: Describes the plot to those who cannot see it.

    Returns:
        None if there is nothing to draw.
    """
    if not gains:
        return None
    titles, width = {}, 29 / ((WIDTH - LEFT - RIGHT) / len(gains))  # of a bar and its gap
    with style(**PLOT_STYLE):
        figure, axes = new_axes(WIDTH, HEIGHT, '', y_name)
        for i, (method, over) in enumerate(gains):
            bars = [(name, kind, value) for name, kinds in over.items() for kind, value in kinds.items()]
            gap = width / 4
            left = i - (len(bars) - 1) * width / 2 - gap * (len(over) - 1) / 2
            for j, (name, kind, value) in enumerate(bars):
                source = 'the paper’s' if kind == 'paper' else 'ours'
                titles[f'bar{len(titles)}'] = f'{method} over {name}, {source}: {value:+.1f}'
                colour = CSS_COLOURS[name]
                axes.bar(
                    left + j * width + gap * list(over).index(name),
                    value,
                    width * 25 / 29,
                    facecolor=CSS_COLOURS['paper'] if kind == 'paper' else colour,
                    edgecolor=colour,
                    linewidth=1.6,
                    gid=list(titles)[-1],
                )
                label_bars(axes, [f'{value:+.1f}'.replace('-', '−')], fontsize=10.5)
        axes.axhline(0, color=CSS_COLOURS['soft'], linewidth=0.8)
        axes.margins(y=0.08)  # room for the labels of negative gains
        axes.set_xlim(-0.5, len(gains) - 0.5)
        axes.set_xticks(range(len(gains)), [method for method, _ in gains], color=CSS_COLOURS['ink'], parse_math=False)
        return to_svg(figure, label, titles)


def plot_curves(
    lines: list[tuple[str, str, list[tuple[float, float]]]], x_name: str, y_name: str, label: str
) -> str | None:
    """Draws curves of a few runs in a small frame.

    Args:
        lines: Family, title and points of each run.
        x_name: Name of the x axis.
        y_name: Name of the y axis; a 'loss' is clipped, or its first iterations would flatten the rest.
        label: Describes the plot to those who cannot see it.

    Returns:
        None if there is nothing to draw.
    """
    lines = [(name, title, [(x, y) for x, y in points if x is not None]) for name, title, points in lines if points]
    if not lines:
        return None
    highest = float('inf')
    if y_name == 'loss':
        highest = 2.5 * statistics.median(y for _, _, points in lines for _, y in points)
    titles = {}
    with style(**{**PLOT_STYLE, 'font.size': 13}):
        figure, axes = new_axes(360, 210, x_name, y_name)
        axes.locator_params(nbins=4)
        for name, title, points in lines:
            points = [(x, min(y, highest)) for x, y in points]
            _line(axes, points, name, 'ours')
            x, y = points[-1]
            titles[f'point{len(titles)}'] = f'{title}: {y:.3g} at {x:g}'
            _point(axes, x, y, name, 'ours', list(titles)[-1])
        axes.update_datalim([(0, points[-1][1])])
        return to_svg(figure, label, titles)
