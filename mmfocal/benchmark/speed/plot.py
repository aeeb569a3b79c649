"""speed.png of `tools/benchmark.py speed`."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mmfocal.benchmark.speed.comparison import Comparison
from mmfocal.benchmark.speed.measure import Result, ratio
from mmfocal.benchmark.speed.report import MIB
from mmfocal.benchmark.speed.scaling import Point, scaling_exponents, scaling_points
from mmfocal.visualization.plotting import label_bars, style

# ours blue, roll + unfold orange, the others grey to black
COLOURS = dict(
    focal='#0072b2',
    focal_reference='#9ecae9',
    focal_gather='#6baed6',
    focal_triton='#3a8fc7',
    roll_unfold='#d55e00',
    flex_attention='#e69f00',
    swin_mmdet='#333333',
    swin_timm='#777777',
    swin_timm_fused='#999999',
    swin_torchvision='#bbbbbb',
    window_sdpa='#777777',
    vil='#009e73',
)
MARKERS = dict(
    focal='o', roll_unfold='s', swin_mmdet='^', swin_timm='v', swin_timm_fused='D', swin_torchvision='P', vil='X'
)


def plot_bars(comparisons: list[Comparison], path: Path) -> Path:
    """Draws bars of time, and of memory where it was measured, one row per case; returns the path."""
    memory = any(result.memory for comparison in comparisons for result in comparison.results)
    heights = [0.9 + 0.3 * sum(result.ok for result in comparison.results) for comparison in comparisons]
    with style(**{'axes.autolimit_mode': 'data'}):
        figure = Figure(figsize=(13 if memory else 7.5, sum(heights) + 0.6), layout='constrained')
        grid = figure.subplots(len(comparisons), 1 + memory, squeeze=False, height_ratios=heights)
        for comparison, axes in zip(comparisons, grid):
            shown = [result for result in comparison.results if result.ok]
            baseline = comparison[comparison.baseline]
            _bars(axes[0], shown, [result.median * 1e3 for result in shown], 'ms', baseline)
            axes[0].set_title(f'{comparison.case}, {comparison.case.device}', fontsize=10, loc='left')
            label = f' (× {baseline.label})' if baseline else ''
            axes[0].set_xlabel(f'median time per batch, ms{label}', fontsize=9)
            if memory:
                shown = [result for result in shown if result.memory]
                _bars(axes[1], shown, [(result.memory or 0) / MIB for result in shown], 'MiB', baseline)
                axes[1].set_xlabel('peak memory, MiB', fontsize=9)
                axes[1].set_visible(bool(shown))
        figure.savefig(path, dpi=130)
    return path


def _bars(axes: Axes, results: list[Result], values: list[float], unit: str, baseline: Result | None) -> None:
    base = next((value for result, value in zip(results, values) if result is baseline), None)
    labels = [f'{value:.4g} {unit}' for value in values]
    if baseline and base:
        if unit == 'ms':  # the median of the rounds' ratios, not the ratio of the medians
            ratios = [ratio(result, baseline)[0] for result in results]
        else:
            ratios = [value / base for value in values]
        labels = [f'{label} · {over:.2f}×' for label, over in zip(labels, ratios)]
        axes.axvline(base, color='#333333', linewidth=0.8, linestyle=':')
    colours = [COLOURS[result.name] for result in results]
    axes.barh([result.label for result in results], values, color=colours, height=0.65)
    label_bars(axes, labels, fontsize=9, bbox=dict(facecolor='white', edgecolor='none', pad=1))
    axes.invert_yaxis()
    axes.set_xlim(0, max(values, default=1) * 1.35)
    axes.tick_params(labelsize=9)


def plot_scaling(comparisons: list[Comparison], path: Path) -> Path:
    """Draws time and memory against image area on logarithmic axes, beside linear growth; returns the path."""
    points = scaling_points(comparisons)
    case = comparisons[0].case
    with style(**{'axes.autolimit_mode': 'data'}):
        figure = Figure(figsize=(12, 5.2), layout='constrained')
        figure.suptitle(
            f'{case.what}, {case.mode}, batch {case.batch}, {case.dtype}, {case.arch}, {case.device}\n'
            'p: ∝ area^p over the larger half of the sizes'
        )
        titles = ('time per batch, s', 'peak memory, MiB')
        for axes, column, unit, title in zip(figure.subplots(1, 2), (1, 2), (1, MIB), titles):
            _lines(axes, points, column, unit)
            axes.set(xscale='log', yscale='log', xlabel='image, pixels', title=title)
            ticks = _ticks([point[0] for _, found in points.values() for point in found])
            axes.set_xticks(list(ticks), list(ticks.values()), rotation=45, fontsize=8)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
            axes.grid(alpha=0.25)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=9)
        figure.savefig(path, dpi=130)
    return path


def _lines(axes: Axes, points: dict[str, tuple[str, list[Point]]], column: int, unit: int) -> None:
    first: list[tuple[int, float]] | None = None
    for name, (label, found) in points.items():
        measured = [(size[0] * size[1], value / unit) for size, *values in found if (value := values[column - 1])]
        if not measured:
            continue
        exponent = scaling_exponents(found, larger_half=True)[column - 1]
        text = label if exponent is None else f'{label}, p = {exponent:.2f}'
        axes.plot(*zip(*measured), marker=MARKERS.get(name, '.'), color=COLOURS[name], linewidth=1.5, label=text)
        first = first or measured
    if first:  # linear growth through the largest size of the first implementation
        area, value = first[-1]
        areas = [area for area, _ in first]
        linear = [value * other / area for other in areas]
        axes.plot(areas, linear, color='#999999', linewidth=1, linestyle=':', label='linear')


def _ticks(sizes: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Returns areas and their labels."""
    return {height * width: f'{height}²' if height == width else f'{height}×{width}' for height, width in sizes}
