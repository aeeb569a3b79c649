"""speed.png of `tools/benchmark.py speed`; needs matplotlib."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mmfocal.benchmark.speed.measure import ratio
from mmfocal.benchmark.speed.report import MIB, scaling_exponents, scaling_points

# ours blue, the plain formulation orange, Swin's grey to black
COLOURS = dict(
    focal='#0072b2',
    focal_reference='#9ecae9',
    focal_gather='#6baed6',
    focal_triton='#3a8fc7',
    roll_unfold='#d55e00',
    swin_mmdet='#333333',
    swin_timm='#777777',
    swin_timm_fused='#999999',
    swin_torchvision='#bbbbbb',
    window_sdpa='#777777',
)
MARKERS = dict(focal='o', roll_unfold='s', swin_mmdet='^', swin_timm='v', swin_timm_fused='D', swin_torchvision='P')


def bars(comparisons: list, path: Path) -> Path:
    """Draws a row of bars for each case: time, and memory where it was measured.

    Args:
        comparisons (List[Comparison]): Of all cases.
        path (Path): The picture.

    Returns:
        Path: The picture.
    """
    memory = any(result.memory for comparison in comparisons for result in comparison.results)
    heights = [0.9 + 0.3 * sum(result.ok for result in comparison.results) for comparison in comparisons]
    figure = Figure(figsize=(13 if memory else 7.5, sum(heights) + 0.6), layout=ConstrainedLayoutEngine(hspace=0.06))
    grid = figure.subplots(len(comparisons), 1 + memory, squeeze=False, height_ratios=heights)
    for comparison, axes in zip(comparisons, grid):
        shown = [result for result in comparison.results if result.ok]
        baseline = comparison[comparison.baseline]
        times = [f'{result.median * 1e3:.4g} ms' for result in shown]
        if baseline:
            times = [f'{text} · {ratio(result, baseline)[0]:.2f}×' for text, result in zip(times, shown)]
        _bars(axes[0], shown, [result.median * 1e3 for result in shown], times, baseline and baseline.median * 1e3)
        axes[0].set_title(f'{comparison.case}, {comparison.case.device}', fontsize=10, loc='left')
        axes[0].set_xlabel(f'median time of a batch, ms{" (× " + baseline.label + ")" if baseline else ""}', fontsize=9)
        if memory:
            shown = [result for result in shown if result.memory]
            base = baseline.memory / MIB if baseline and baseline.memory else None
            sizes = [f'{result.memory / MIB:.4g} MiB' for result in shown]
            if base:
                sizes = [f'{text} · {result.memory / MIB / base:.2f}×' for text, result in zip(sizes, shown)]
            _bars(axes[1], shown, [result.memory / MIB for result in shown], sizes, base)
            axes[1].set_xlabel('peak memory, MiB', fontsize=9)
            axes[1].set_visible(bool(shown))
    figure.savefig(path, dpi=130)
    return path


def _bars(axis, results, values, texts, base):
    axis.barh(
        [result.label for result in results], values, color=[COLOURS[result.name] for result in results], height=0.65
    )
    for i, (value, text) in enumerate(zip(values, texts)):
        axis.annotate(
            text,
            (value, i),
            (5, 0),
            textcoords='offset points',
            va='center',
            fontsize=9,
            bbox=dict(facecolor='white', edgecolor='none', pad=1),
        )
    if base:
        axis.axvline(base, color='#333333', linewidth=0.8, linestyle=':')
    axis.invert_yaxis()
    axis.set_xlim(0, max(values, default=1) * 1.35)
    axis.tick_params(labelsize=9)
    axis.spines[['top', 'right']].set_visible(False)


def scaling(comparisons: list, path: Path) -> Path:
    """Draws time and memory against image area, both logarithmic, with a linear growth beside them.

    Args:
        comparisons (List[Comparison]): One for each size.
        path (Path): The picture.

    Returns:
        Path: The picture.
    """
    points = scaling_points(comparisons)
    case = comparisons[0].case
    figure = Figure(figsize=(12, 5.2), layout='constrained')
    figure.suptitle(
        f'{case.what}, {case.mode}, batch {case.batch}, {case.dtype}, {case.arch}, {case.device}\n'
        'p: ∝ area^p over the larger half of the sizes'
    )
    for axis, column, unit, title in zip(
        figure.subplots(1, 2), (1, 2), (1, MIB), ('time of a batch, s', 'peak memory, MiB')
    ):
        _lines(axis, points, column, unit)
        axis.set(xscale='log', yscale='log', xlabel='image, pixels', title=title)
        axis.set_xticks(*_ticks([point[0] for _, found in points.values() for point in found]), rotation=45, fontsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=9)
    figure.savefig(path, dpi=130)
    return path


def _lines(axis, points, column, unit):
    first = None
    for name, (label, found) in points.items():
        measured = [((size[0] * size[1]), value / unit) for size, *values in found if (value := values[column - 1])]
        if not measured:
            continue
        exponent = scaling_exponents(found, larger_half=True)[column - 1]
        text = label if exponent is None else f'{label}, p = {exponent:.2f}'
        axis.plot(*zip(*measured), marker=MARKERS.get(name, '.'), color=COLOURS[name], linewidth=1.5, label=text)
        first = first or measured
    if first:  # through the first contender's largest size
        area, value = first[-1]
        areas = [area for area, _ in first]
        axis.plot(
            areas,
            [value * other / area for other in areas],
            color='#999999',
            linewidth=1,
            linestyle=':',
            label='linear',
        )


def _ticks(sizes: list[tuple]) -> tuple:
    """Areas, and their labels."""
    labels = {height * width: f'{height}²' if height == width else f'{height}×{width}' for height, width in sizes}
    return list(labels), list(labels.values())
