"""Figures of attention: its keys on the image at their own granularity, and where its mass goes."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from mmfocal.visualization.attention import AttentionMaps
from mmfocal.visualization.figures import HEAT, MARKS, dimmed

KIND_COLOURS = {
    'own window': '#1763b0',
    'ring': '#6cb0f5',
    'pooled 1': '#b8700f',
    'pooled 2': '#e6a54a',
    'pooled 3': '#8a5aa8',
}
OTHER_COLOUR = '#6d747c'
MASS_SHADES = colormaps['viridis']


@dataclass
class Mass:
    """Where the attention of a block goes.

    Args:
        stage: Of the block.
        block: 0-based, within the stage.
        by_kind: Share of each kind of keys, the mean over heads, images and tokens.
        padding: Share of keys that lie in the padding of the map to whole windows.
        within: Share of keys within each of `distances`.
        distances: In pixels of the input.
        uniform_by_kind, uniform_within: The same if all keys had the same weight.
    """

    stage: int
    block: int
    by_kind: dict[str, float]
    padding: float
    within: Tensor
    distances: Tensor
    uniform_by_kind: dict[str, float]
    uniform_within: Tensor

    @property
    def half(self) -> float:
        """Distance within which half of the mass is."""
        return float(self.distances[min(int((self.within < 0.5).sum()), len(self.distances) - 1)])


def measure_mass(maps: AttentionMaps, stage: int, block: int) -> Mass:
    """Sums up where the attention of a block goes."""
    reach = float(max(maps.padded_size)) * 1.5
    distances = torch.arange(0.0, reach, maps.stride / 2)
    seen = (~maps.boxes.isnan().any(-1))[maps.window].to(maps.weights)  # (h, w, keys)
    uniform = replace(maps, weights=(seen / seen.sum(-1, keepdim=True))[None, None])

    def summed(of: AttentionMaps) -> tuple[dict[str, float], Tensor]:
        by_kind = {kind: float(share.mean()) for kind, share in of.mass().items()}
        return by_kind, of.mass_within(distances).mean(0).cpu()

    by_kind, within = summed(maps)
    uniform_by_kind, uniform_within = summed(uniform)
    return Mass(stage, block, by_kind, maps.padding_mass(), within, distances, uniform_by_kind, uniform_within)


def draw_attention(
    title: str,
    pixels: np.ndarray,
    size: tuple[int, int],
    maps: AttentionMaps,
    heads: list[int] | None,
    point: tuple[float, float],
) -> Figure:
    """Draws what the token at a point attends to.

    Args:
        title: Title of the picture.
        pixels: The image, (H, W, 3), RGB.
        size: Height and width of the image within the input.
        maps: Of one image.
        heads: A panel for each of these; None for their mean, with a panel for each level of keys as well.
        point: x and y in pixels of the input.

    Returns:
        The figure, for `save_figure`.
    """
    row, column = maps.token_at(*point)
    weights = maps.weights[0, :, row, column].cpu().numpy()  # (heads, keys)
    boxes = maps.boxes[maps.window[row, column]].cpu().numpy()
    levels = _levels(maps)
    panels: list[tuple[str, np.ndarray, list[str]]] = []
    if heads is None or len(heads) == 1:
        mean = weights.mean(0) if heads is None else weights[heads[0]]
        panels.append(('image, and what each level covers', mean, []))
        panels.append((f'all levels, {"mean of the heads" if heads is None else f"head {heads[0]}"}', mean, [*levels]))
        for level, kinds in levels.items():
            panels.append((f'{level}: {_shares(maps, mean, kinds)}', mean, [level]))
    else:
        for head in heads:
            shares = ', '.join(
                f'{level} {weights[head][_keys(maps, kinds)].sum():.0%}' for level, kinds in levels.items()
            )
            panels.append((f'head {head}: {shares}', weights[head], [*levels]))

    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    ratio = min(max(size[0] / size[1], 0.3), 3)
    width, height = 4 / ratio**0.5, 4 * ratio**0.5
    total_width, total_height = columns * (width + 0.12) + 0.75, rows * (height + 0.42) + 0.3
    figure = Figure(figsize=(total_width, total_height))
    figure.suptitle(title, y=1 - 0.08 / total_height, fontsize=9)
    norm = PowerNorm(0.5, 0, max(panel[1].max() for panel in panels))
    for i, (name, values, names) in enumerate(panels):
        left = 0.08 + (i % columns) * (width + 0.12)
        bottom = total_height - 0.25 - (i // columns + 1) * (height + 0.42) + 0.12
        axis = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
        if names:
            _draw_cells(axis, pixels, size, maps, boxes, values, [levels[name] for name in names], norm)
        else:
            _draw_regions(axis, pixels, size, maps, boxes, list(levels.values()))
        if names == ['fine']:
            _zoom(axis, size, boxes[maps.kinds['own window']], maps.stride)
        _mark_query(axis, maps, row, column)
        axis.set_title(name, fontsize=8, pad=4)
    bar = figure.add_axes(
        (1 - 0.6 / total_width, 0.15 / total_height, 0.12 / total_width, 1 - 0.75 / total_height), facecolor='black'
    )
    figure.colorbar(ScalarMappable(norm, HEAT), cax=bar)
    bar.tick_params(labelsize=7)
    return figure


def _levels(maps: AttentionMaps) -> dict[str, list[str]]:
    """Returns the kinds of keys of each level of focus: own window and ring are the fine level."""
    levels: dict[str, list[str]] = {}
    for kind in maps.kinds:
        levels.setdefault('fine' if kind in ('own window', 'ring') else kind, []).append(kind)
    return levels


def _keys(maps: AttentionMaps, kinds: list[str]) -> np.ndarray:
    indices = np.arange(maps.weights.shape[-1])
    return np.concatenate([indices[maps.kinds[kind]] for kind in kinds])


def _shares(maps: AttentionMaps, weights: np.ndarray, kinds: list[str]) -> str:
    if len(kinds) == 1:
        return f'{weights[maps.kinds[kinds[0]]].sum():.1%}'
    return ', '.join(f'{kind} {weights[maps.kinds[kind]].sum():.1%}' for kind in kinds)


def _draw_cells(
    axis: Axes,
    pixels: np.ndarray,
    size: tuple[int, int],
    maps: AttentionMaps,
    boxes: np.ndarray,
    weights: np.ndarray,
    levels: list[list[str]],
    norm: PowerNorm,
) -> None:
    """Draws the keys of levels over the image, the coarsest first, so that the finer ones replace them."""
    height, width = size
    heat = np.zeros((height, width, 4))
    for order, kinds in enumerate(reversed(levels)):
        keys = _keys(maps, kinds)
        keys = keys[~np.isnan(boxes[keys]).any(1)]
        cells, values = boxes[keys], weights[keys]
        # a cell that reaches over the padded map's end continues at its start
        tall, wide = maps.padded_size
        moves = [(dx, dy) for dx in (0, wide) for dy in (0, tall)]
        cells = np.concatenate([cells - np.array([dx, dy, dx, dy]) for dx, dy in moves])
        values = np.tile(values, len(moves))
        inside = (cells[:, 0] < width) & (cells[:, 1] < height) & (cells[:, 2] > 0) & (cells[:, 3] > 0)
        cells, values = cells[inside], values[inside]
        for (left, top, right, bottom), colour in zip(cells.clip(0).astype(int), HEAT(norm(values))):
            heat[top:bottom, left:right] = colour
        corners = cells[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        fine = kinds[0] in ('own window', 'ring')
        edges = PolyCollection(
            corners, facecolors='none', edgecolors=(1, 1, 1, 0.3), linewidths=0.3 if fine else 0.9, zorder=2 + order
        )
        axis.add_collection(edges)
    axis.imshow(dimmed(pixels), extent=(0, width, height, 0), zorder=0)
    heat[..., 3] *= 0.85
    axis.imshow(heat, extent=(0, width, height, 0), interpolation='nearest', zorder=1)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=(), yticks=())


def _draw_regions(
    axis: Axes,
    pixels: np.ndarray,
    size: tuple[int, int],
    maps: AttentionMaps,
    boxes: np.ndarray,
    levels: list[list[str]],
) -> None:
    """Draws the image with the outline of what each level of keys covers, as far as the keys are contiguous."""
    height, width = size
    axis.imshow(pixels, extent=(0, width, height, 0), zorder=0)
    for kinds in levels:
        cells = boxes[_keys(maps, kinds)]
        inset = 0.008 * max(size)  # outlines at the image's border stay visible
        left, top = np.maximum(np.nanmin(cells[:, :2], 0), inset)
        right, bottom = np.minimum(np.nanmax(cells[:, 2:], 0), np.array([width, height]) - inset)
        axis.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=KIND_COLOURS.get(kinds[0], OTHER_COLOUR),
                linewidth=2.5,
                path_effects=[withStroke(linewidth=4, foreground='white')],
                zorder=5,
            )  # fmt: skip
        )
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=(), yticks=())


def _zoom(axis: Axes, size: tuple[int, int], own: np.ndarray, stride: int) -> None:
    """Shows the part of the image around a window, up to a window's side away, in the image's proportions."""
    height, width = size
    left, top, right, bottom = *own[:, :2].min(0), *own[:, 2:].max(0)
    half = 1.5 * max(right - left, bottom - top)
    x, y = (left + right) / 2, (top + bottom) / 2
    part = min(1, max(2 * half / width, 2 * half / height))
    wide, tall = part * width / 2, part * height / 2
    x, y = min(max(x, wide), width - wide), min(max(y, tall), height - tall)
    axis.set(xlim=(x - wide, x + wide), ylim=(y + tall, y - tall))


def _mark_query(axis: Axes, maps: AttentionMaps, row: int, column: int) -> None:
    side = maps.stride
    outline = [withStroke(linewidth=3, foreground='black')]
    place = (column * side, row * side)
    axis.add_patch(
        Rectangle(place, side, side, fill=False, edgecolor=MARKS, linewidth=1.4, path_effects=outline, zorder=20)
    )


def draw_mass(title: str, masses: list[Mass]) -> Figure:
    """Draws where the attention of all blocks goes: by kind of keys, and by distance, a column per stage.

    Args:
        title: Title of the picture.
        masses: Of all blocks, in order.

    Returns:
        The figure, for `save_figure`.
    """
    stages = list(dict.fromkeys(mass.stage for mass in masses))
    kinds = list(dict.fromkeys(kind for mass in masses for kind in mass.by_kind))
    most = max(sum(mass.stage == stage for mass in masses) for stage in stages) + 1
    figure = Figure(figsize=(3.1 * len(stages) + 0.4, 3.6 + 0.24 * most), layout='constrained')
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(2, len(stages), squeeze=False, height_ratios=[0.9 + 0.24 * most, 2.3])
    for column, stage in enumerate(stages):
        of_stage = [mass for mass in masses if mass.stage == stage]
        bars, curves = axes[:, column]
        names = [*(f'block {mass.block}' for mass in of_stage), 'uniform']
        for y, shares in enumerate([*(mass.by_kind for mass in of_stage), of_stage[0].uniform_by_kind]):
            left = 0.0
            for kind in kinds:
                share = shares.get(kind, 0.0)
                colour = KIND_COLOURS.get(kind, OTHER_COLOUR)
                bars.barh(y, share, 0.78, left, color=colour, alpha=1 if y < len(of_stage) else 0.45)
                if share >= 0.1:
                    bars.text(left + share / 2, y, f'{share:.0%}', ha='center', va='center', fontsize=7, color='white')
                left += share
        bars.set_yticks(range(len(names)), names, fontsize=7)
        bars.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xticks=())
        bars.set_title(f'stage {stage}', fontsize=9)
        bars.spines[:].set_visible(False)
        bars.tick_params(length=0)
        for i, mass in enumerate(of_stage):
            shade = 0.25 + 0.6 * i / max(len(of_stage) - 1, 1)
            curves.plot(
                mass.distances, mass.within, color=MASS_SHADES(shade), linewidth=1.3, label=f'block {mass.block}'
            )
        uniform = of_stage[0]
        curves.plot(uniform.distances, uniform.uniform_within, '--', color=OTHER_COLOUR, linewidth=1, label='uniform')
        curves.set(ylim=(0, 1.02), xlim=(0, _end(of_stage)), xlabel='distance of key from query, pixels')
        curves.xaxis.label.set_size(8)
        curves.yaxis.set_major_formatter(PercentFormatter(1))
        curves.tick_params(labelsize=7)
        curves.grid(alpha=0.25)
        curves.spines[['top', 'right']].set_visible(False)
        if len(of_stage) <= 6:
            curves.legend(fontsize=7, loc='lower right', frameon=False)
    axes[1, 0].set_ylabel('attention within the distance', fontsize=8)
    handles = [Rectangle((0, 0), 1, 1, color=KIND_COLOURS.get(kind, OTHER_COLOUR)) for kind in kinds]
    figure.legend(handles, kinds, loc='outside lower center', ncols=len(kinds), fontsize=8, frameon=False)
    return figure


def _end(masses: list[Mass]) -> float:
    """Returns the distance beyond which all curves of a stage are flat."""
    ends = [float(mass.distances[int((curve < 0.999).sum().clamp(max=len(curve) - 1))])
            for mass in masses for curve in (mass.within, mass.uniform_within)]  # fmt: skip
    return max(ends)
