"""The report's plots, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfocal.visualization.plotting import CSS_COLOURS, HEIGHT, PLOT_STYLE, WIDTH, new_axes, style, to_svg

IOU_COLOURS = {'0.50': 'Focal', '0.75': 'Swin'}  # CSS variables
DRAWN = 200  # classes up to which a confusion matrix is drawn
NUMBERED = 14  # classes up to which cells of a confusion matrix show their numbers


def plot_curves(curves: dict[str, Sequence[float]]) -> str:
    """Draws mean precision against recall.

    Args:
        curves: IoU → precisions at 101 recalls, 0 to 1.
    """
    with style(**PLOT_STYLE):
        figure, axes = new_axes(WIDTH, HEIGHT, 'recall', 'precision')
        axes.set(xlim=(0, 1), ylim=(0, 1))
        for iou, precisions in curves.items():
            axes.plot(np.linspace(0, 1, len(precisions)), precisions, color=CSS_COLOURS[IOU_COLOURS[iou]])
        return to_svg(figure, 'precision against recall')


def curve_points(precisions: Sequence[float], width: int = 100, height: int = 60) -> str:
    """Returns a small curve as points of an SVG polyline, without those in the middle of straight lines."""
    xs, ys = np.linspace(0, width, len(precisions)), height * (1 - np.asarray(precisions))
    turns = np.r_[True, ~np.isclose(np.diff(ys, 2), 0), True]
    return ' '.join(f'{x:g},{y:.4g}' for x, y in zip(xs[turns], ys[turns]))


@dataclass
class Cell:
    """A cell of a confusion matrix: its place, share of its row, number as text and tooltip."""

    row: int
    column: int
    share: float
    text: str
    title: str
    right: bool


@dataclass
class ConfusionPlot:
    """A confusion matrix to draw.

    Args:
        rows, columns: Names.
        cells: Those that are not empty.
        side: Of a cell, in pixels.
        numbers: Whether cells show their numbers.
    """

    rows: list[str]
    columns: list[str]
    cells: list[Cell]
    side: int
    numbers: bool


def plot_confusion(matrix: np.ndarray, names: Sequence[str], background: bool, unit: str) -> ConfusionPlot:
    """Lays out a confusion matrix.

    Args:
        matrix: Annotated (rows) by predicted class; with `background` the last of both is background.
        names: Of the classes.
        background: Whether there is background.
        unit: What is counted, for tooltips.
    """
    rows = [*names, 'background'] if background else list(names)
    columns = [*names, 'missed'] if background else list(names)
    sums = matrix.sum(1)
    numbers = len(names) <= NUMBERED
    cells = []
    for row, column in zip(*np.nonzero(matrix)):
        value, share = int(matrix[row, column]), matrix[row, column] / sums[row]
        text = f'{100 * share:.0f}' if unit == 'pixels' else str(value)
        title = f'{rows[row]} → {columns[column]}: {value} {unit}, {100 * share:.1f} % of the row'
        cells.append(Cell(int(row), int(column), float(share), text, title, row == column))
    return ConfusionPlot(rows, columns, cells, 46 if numbers else 13, numbers)


def list_confusions(matrix: np.ndarray, names: Sequence[str], number: int = 10) -> list[dict]:
    """Returns the most frequent confusions of two classes: `annotated`, `predicted`, `count`, `share` of the row."""
    between = np.array(matrix[: len(names), : len(names)])
    np.fill_diagonal(between, 0)
    sums = matrix.sum(1)
    order = np.argsort(-between, axis=None, kind='stable')[:number]
    pairs = [divmod(int(index), len(names)) for index in order]
    return [
        dict(annotated=names[i], predicted=names[j], count=int(between[i, j]), share=float(between[i, j] / sums[i]))
        for i, j in pairs
        if between[i, j]
    ]
