"""The plots of the report as inline SVG, whose colours are the page's."""

import math
from collections.abc import Sequence
from html import escape

FAMILIES = ('ResNet', 'ResNeXt', 'PVT', 'ViL', 'Swin', 'Focal')
WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 44
Point = tuple[float, float, str]


def family(backbone: str) -> str:
    """ResNeXt101-32x4d and ResNeXt101-64x4d are one family, as Swin-Tiny and Swin-Small are."""
    name = backbone.split('-')[0].rstrip('0123456789')
    return name if name in FAMILIES else 'ResNet'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover a range."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    return f'{value:g}'.replace('-', '−')


class Axes:
    """A frame with round ticks; collects what is drawn in it."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        x_name: str,
        y_name: str,
        width: int = WIDTH,
        height: int = HEIGHT,
        x_ticks: bool = True,
    ):
        self.width, self.height, self.parts = width, height, []
        self.xs, self.ys = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
        for value in self.ys:
            y = self.y(value)
            self.parts.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>'
                f'<text class="tick end" x="{LEFT - 7}" y="{y + 3.5:.1f}">{number(value)}</text>'
            )
        for value in self.xs if x_ticks else ():
            self.text(self.x(value), height - BOTTOM + 17, number(value), 'tick middle')
        self.parts.append(f'<path class="axis" d="M{LEFT} {height - BOTTOM}H{width - RIGHT}"/>')
        self.text(width - RIGHT, height - 8, x_name, 'name end')
        self.text(4, TOP - 3, y_name, 'name')

    def x(self, value: float) -> float:
        return LEFT + (value - self.xs[0]) / (self.xs[-1] - self.xs[0]) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return (
            self.height - BOTTOM - (value - self.ys[0]) / (self.ys[-1] - self.ys[0]) * (self.height - TOP - BOTTOM - 8)
        )

    def text(self, x: float, y: float, text: str, kind: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>')

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        path = 'L'.join(f'{self.x(x):.1f} {self.y(y):.1f}' for x, y in points)
        self.parts.append(f'<path class="line {kind}" d="M{path}"/>')

    def marker(self, x: float, y: float, kind: str, title: str) -> None:
        self.parts.append(
            f'<circle class="dot {kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4.5"><title>{escape(title)}</title></circle>'
        )

    def svg(self, label: str) -> str:
        return f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">{"".join(self.parts)}</svg>'


def scatter(series: dict[str, dict[str, list[Point]]], x_name: str, y_name: str, label: str) -> str | None:
    """A line through the points of each family: solid ours, dashed and hollow the paper's.

    Args:
        series (Dict[str, Dict[str, List[Point]]]): 'ours' and 'paper' → family → points: x, y, and what it is.
        x_name (str): Of the axis.
        y_name (str): Of the axis.
        label (str): For those who cannot see it.

    Returns:
        Optional[str]: None where there is nothing to draw.
    """
    points = [point for families in series.values() for found in families.values() for point in found]
    if not points:
        return None
    axes = Axes([x for x, _, _ in points], [y for _, y, _ in points], x_name, y_name)
    best = {}  # a label above the highest point of each name
    for kind, families in series.items():
        for name, found in families.items():
            axes.line([(x, y) for x, y, _ in sorted(found)], f'{name} {kind}')
    for kind, families in series.items():
        for name, found in families.items():
            for x, y, what in found:
                axes.marker(
                    x,
                    y,
                    f'{name} {kind}',
                    f'{what}, {name}{" (the paper’s)" if kind == "paper" else ""}: {y:.1f} at {x:.4g}',
                )
                if what not in best or y > best[what][1]:
                    best[what] = x, y
    dots = [(axes.x(x), axes.y(y)) for x, y, _ in points]
    placed = []
    for what, (x, y) in sorted(best.items(), key=lambda item: -item[1][1]):
        box = label_box(what, axes.x(x), axes.y(y), axes.width, dots, placed)
        placed.append(box)
        axes.text(box[0], box[3], what, 'label')
    return axes.svg(label)


def label_box(text: str, x: float, y: float, width: int, dots: list[tuple[float, float]], placed: list[tuple]) -> tuple:
    """Left, top, right and baseline of a label near a point, on no point and no other label."""
    length = 6.2 * len(text)
    boxes = [
        (left, base - 10, left + length, base)
        for step in range(6)
        for base in (y - 8 - 13 * step, y + 18 + 13 * step)
        for left in (x + 8, x - 8 - length)
        if left >= LEFT and left + length <= width and base >= 12
    ]

    def free(box):
        left, top, right, base = box
        return not any(
            left - 6 < dot_x < right + 6 and top - 6 < dot_y < base + 6 for dot_x, dot_y in dots
        ) and not any(
            left < other[2] and other[0] < right and top < other[3] + 3 and other[1] < base + 3 for other in placed
        )

    return next(filter(free, boxes), boxes[0])


def bars(gains: list[tuple[str, dict[str, dict[str, float]]]], y_name: str, label: str) -> str | None:
    """Gains in groups.

    Args:
        gains (List[Tuple[str, Dict]]): Method, and over which family → 'ours', 'paper' → the gain.
        y_name (str): Of the axis.
        label (str): For those who cannot see it.

    Returns:
        Optional[str]: None where there is nothing to draw.
    """
    values = [value for _, over in gains for kinds in over.values() for value in kinds.values()]
    if not values:
        return None
    axes = Axes([0, len(gains)], [0, *values], '', y_name, x_ticks=False)
    axes.xs = [0, len(gains)]
    for i, (method, over) in enumerate(gains):
        shown = [(name, kind, value) for name, kinds in over.items() for kind, value in kinds.items()]
        start = axes.x(i + 0.5) - 14.5 * len(shown) - 4 * (len(over) > 1)
        for j, (name, kind, value) in enumerate(shown):
            x = start + 29 * j + (8 if list(over).index(name) else 0)
            top, bottom = sorted((axes.y(value), axes.y(0)))
            source = 'the paper’s' if kind == 'paper' else 'ours'
            axes.parts.append(
                f'<rect class="bar {name} {kind}" x="{x:.1f}" y="{top:.1f}" width="25" height="{bottom - top:.1f}">'
                f'<title>{escape(method)} over {name}, {source}: {value:+.1f}</title></rect>'
            )
            axes.text(
                x + 12.5, top - 4 if value >= 0 else bottom + 11, f'{value:+.1f}'.replace('-', '−'), 'value middle'
            )
        axes.text(axes.x(i + 0.5), axes.height - BOTTOM + 17, method, 'label middle')
    axes.parts.append(f'<path class="axis" d="M{LEFT} {axes.y(0):.1f}H{axes.width - RIGHT}"/>')
    return axes.svg(label)


def curves(lines: list[tuple[str, str, list[tuple[float, float]]]], x_name: str, y_name: str, label: str) -> str | None:
    """Curves of a few runs, in a small frame: family, title, points."""
    lines = [(name, title, [(x, y) for x, y in points if x is not None]) for name, title, points in lines if points]
    if not lines:
        return None
    xs, ys = zip(*(point for _, _, points in lines for point in points))
    if y_name == 'loss':  # the first iterations would flatten all the others
        ys = [min(y, 2.5 * sorted(ys)[len(ys) // 2]) for y in ys]
    axes = Axes([0, *xs], ys, x_name, y_name, 360, 210)
    for name, title, points in lines:
        points = [(x, min(y, axes.ys[-1])) for x, y in points]
        axes.line(points, f'{name} ours')
        axes.marker(*points[-1], f'{name} ours', f'{title}: {points[-1][1]:.3g} at {points[-1][0]:g}')
    return axes.svg(label)
