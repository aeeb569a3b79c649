"""The page of a data set's statistics, in the style of all reports."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from mmfocal.visualization.pages import make_environment
from mmfocal.visualization.plotting import CSS_COLOURS, HEIGHT, PLOT_STYLE, WIDTH, new_axes, style, to_svg

MOST_POINTS = 1500  # an SVG of more is slow to show


def render_page(title: str, figures: dict[str, Any], statistics: Any) -> str:
    """Renders the page; everything that comes from a file is escaped.

    Args:
        title: Names the data set.
        figures: Of `data_stats.summarize`.
        statistics: Of `data_stats.collect`.
    """
    environment = make_environment(Path(__file__).parent / 'pages')
    most = max((row.get('boxes', row.get('pixels', 0)) for row in figures['rows']), default=0) or 1
    return environment.get_template('data_stats.html.j2').render(
        title=title, plots=_plots(statistics), most=most, segments=len(statistics.segments), **figures
    )


def _plots(statistics: Any) -> list[dict[str, str]]:
    plots = []
    if statistics.boxes:
        sizes = np.array(statistics.boxes, float)
        side = np.sqrt(sizes.prod(1))
        per_image = np.bincount(statistics.box_images, minlength=len(statistics.image_sizes))
        edges = 2 ** np.arange(1, np.ceil(np.log2(max(side.max(), 8))) + 0.25, 0.25)
        plots.append(
            _histogram(
                side, edges, 'side, √area in pixels', 'boxes', 'Sizes', 'Lines: 32 and 96 pixels.', True, (32, 96)
            )
        )
        ratio = sizes[:, 0] / sizes[:, 1]
        reach = max(2.0, np.ceil(np.abs(np.log2(ratio)).max() * 2) / 2)
        edges = 2 ** np.linspace(-reach, reach, int(8 * reach) + 1)
        plots.append(_histogram(ratio, edges, 'width / height', 'boxes', 'Aspect ratios', 'Line: squares.', True, (1,)))
        step = max(1, round(per_image.max() / 40))
        edges = np.arange(-0.5, per_image.max() + step + 0.5, step)
        plots.append(_histogram(per_image, edges, 'boxes in an image', 'images', 'Boxes per image', ''))
    coverage = statistics.coverage
    if coverage is not None and coverage.best_iou:
        plots.append(
            _histogram(
                np.array(coverage.best_iou),
                np.linspace(0, 1, 41),
                'IoU',
                'boxes',
                'IoU of each box with its best anchor',
                f'Images at {statistics.scale}.',
            )
        )
    heights, widths = np.array(statistics.image_sizes).T
    plots.append(_scatter(widths, heights))
    return [plot for plot in plots if plot]


def _histogram(
    values: np.ndarray,
    edges: np.ndarray,
    x_name: str,
    y_name: str,
    title: str,
    caption: str,
    logarithmic: bool = False,
    lines: tuple[float, ...] = (),
) -> dict[str, str]:
    counts, _ = np.histogram(values, edges)
    filled = counts.nonzero()[0]
    if not len(filled):
        return {}
    first, last = filled[0], filled[-1] + 1
    with style(**PLOT_STYLE):
        figure, axes = new_axes(WIDTH, HEIGHT, x_name, y_name)
        axes.bar(
            edges[first:last], counts[first:last], np.diff(edges)[first:last] * 0.94, align='edge',
            color=CSS_COLOURS['Focal'],
        )  # fmt: skip
        if logarithmic:
            axes.set_xscale('log', base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        for line in lines:
            if edges[first] < line < edges[last]:
                axes.axvline(line, color=CSS_COLOURS['Swin'], linewidth=1.4, linestyle=(0, (4, 3)))
        axes.set_xlim(edges[first], edges[last])
        return dict(svg=to_svg(figure, title), title=title, caption=caption)


def _scatter(widths: np.ndarray, heights: np.ndarray) -> dict[str, str]:
    sizes, counts = np.unique(np.stack([widths, heights], 1), axis=0, return_counts=True)
    caption = f'Different sizes: {len(sizes)}. A larger point stands for more images.'
    if len(sizes) > MOST_POINTS:
        order = counts.argsort()[::-1][:MOST_POINTS]
        sizes, counts = sizes[order], counts[order]
        caption += f' The most frequent {MOST_POINTS} are shown.'
    with style(**PLOT_STYLE):
        figure, axes = new_axes(WIDTH, HEIGHT, 'width', 'height')
        area = 14 + 120 * counts / counts.max()
        axes.scatter(sizes[:, 0], sizes[:, 1], area, color=CSS_COLOURS['Focal'], alpha=0.55, linewidths=0)
        axes.set_xlim(0, widths.max() * 1.08)
        axes.set_ylim(0, heights.max() * 1.08)
        return dict(svg=to_svg(figure, 'image sizes'), title='Image sizes', caption=caption)
