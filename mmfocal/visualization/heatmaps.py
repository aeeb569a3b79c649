"""Draws corner heatmaps and foreground maps of RepPoints V2, predicted and annotated."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine import read_config
from mmfocal.engine.compatibility import check_compatible
from mmfocal.errors import ConfigError, DataError, MissingFileError
from mmfocal.models.reppoints_v2 import RepPointsV2Head
from mmfocal.visualization.figures import HEAT, MARKS, dimmed
from mmfocal.weights import register_safe_loaders


@dataclass
class Maps:
    """Predictions of the head for an image, or its targets.

    Args:
        boxes: `bboxes` (n, 4), xyxy in pixels of the input, `labels` (n,) and, for predictions, `scores` (n,).
        ignored: Ignored boxes, (m, 4).
        corners: Heatmaps of top-left and bottom-right corners, one (2, H, W) per level, 0 to 1.
        foreground: Foreground maps, one (num_classes, H, W) per level, 0 to 1.
    """

    boxes: InstanceData
    ignored: Tensor
    corners: list[Tensor]
    foreground: list[Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('config', help='config of a detector with RepPointsV2Head: a file or a name')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help="image file; targets are drawn too if it is in one of the config's data sets")
    parser.add_argument('--out', help='the picture to write (default: work_dirs/heatmaps/IMAGE.png)')
    parser.add_argument(
        '--levels',
        nargs='+',
        type=int,
        metavar='LEVEL',
        help='levels to draw, 0 is the finest (default: 0 1)',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='lowest score of boxes, corners and classes to mark (default: 0.3)',
    )
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: cuda if there is a GPU'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config',
    )


def main(args: argparse.Namespace) -> None:
    """Draws the picture, and prints where it is and what it shows.

    Args:
        args: Of `add_arguments`.

    Raises:
        MissingFileError: If the config, the checkpoint or the image does not exist.
        DataError: If the image cannot be decoded, or a data set of the config is damaged.
        CheckpointError: If the checkpoint cannot be read, or is of another model.
        ConfigError: If the config has no `RepPointsV2Head`, or an argument cannot be used.
    """
    out = Path(args.out or f'work_dirs/heatmaps/{Path(args.image).stem}.png')
    _check(args, out)
    cfg = read_config(args.config, args.cfg_options)
    model = _load_model(cfg, args)
    strides = model.bbox_head.point_strides
    levels = args.levels or [0, 1][: len(strides)]
    if not set(levels) <= set(range(len(strides))):
        raise ConfigError(
            f'--levels: {args.config} has levels 0 to {len(strides) - 1}, got {" ".join(map(str, levels))}'
        )
    with _written(out):
        out.parent.mkdir(parents=True, exist_ok=True)

    data, classes, ann_file, absent = _load_image(cfg, args.image)
    if len(classes) != model.bbox_head.num_classes:
        raise ConfigError(
            f'{args.config}: the head has num_classes={model.bbox_head.num_classes} and the data set {len(classes)} '
            'classes; correct num_classes or metainfo.classes'
        )
    pixels, halves = make_maps(model, data, args.score_thr, annotated=bool(ann_file))
    title = f'{args.image} at {pixels.shape[1]} × {pixels.shape[0]} pixels, {args.checkpoint}'
    figure = draw(title, pixels, halves, levels, strides, classes, args.score_thr)
    with _written(out):
        figure.savefig(out, dpi=100)
    if ann_file:
        print(f'{out}: predictions and targets (from {ann_file})')
    else:
        print('; '.join([f"{out}: predictions only; {args.image} is in none of the config's data sets", *absent]))


def make_maps(model: nn.Module, data: dict, score_thr: float, annotated: bool) -> tuple[np.ndarray, dict[str, Maps]]:
    """Runs the detector on an image, and computes the targets of its annotations.

    Args:
        model: A detector with `RepPointsV2Head`.
        data: Output of the test pipeline: `inputs` (3, H, W), BGR, and `data_samples`.
        score_thr: Lowest score of a box.
        annotated: Whether to compute targets, from `gt_instances`.

    Returns:
        The padded image (H, W, 3), RGB, 0 to 255; the maps 'predicted' and, if asked for, 'annotated'.
    """
    batch = model.data_preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]), False)
    inputs, sample = batch['inputs'], batch['data_samples'][0]
    pixels = np.zeros((*inputs.shape[-2:], 3), np.uint8)
    image = data['inputs'].flip(0).permute(1, 2, 0).clamp(0, 255).byte().numpy()
    pixels[: image.shape[0], : image.shape[1]] = image

    head = model.bbox_head
    with torch.no_grad():
        outputs = head(model.extract_feat(inputs))
        (boxes,) = head.predict_by_feat(
            *outputs, batch_img_metas=[sample.metainfo], cfg=ConfigDict(head.test_cfg, score_thr=score_thr)
        )
    corners, foreground = ([level[0].sigmoid() for level in outputs[i]] for i in (3, 5))
    maps = dict(predicted=Maps(boxes, inputs.new_zeros(0, 4), corners, foreground))
    if annotated:
        maps['annotated'] = _targets(head, sample, [level.shape[-2:] for level in corners])
    return pixels, maps


def _targets(head: RepPointsV2Head, sample: DetDataSample, sizes: list[tuple[int, int]]) -> Maps:
    """Returns the training targets of an image, computed by the head's own methods."""
    gt_instances = sample.gt_instances
    points, valid = head.get_points(sizes, [sample.metainfo], gt_instances.bboxes.device)
    top_left, bottom_right = head.get_heatmap_targets(points, valid, [gt_instances])
    corners = [
        torch.cat([tl.heatmap, br.heatmap]).view(2, *size) for tl, br, size in zip(top_left, bottom_right, sizes)
    ]
    foreground = [(weights[0] > 0).float() for weights in head.get_foreground_targets(sizes, [gt_instances])]
    return Maps(gt_instances, sample.ignored_instances.bboxes, corners, foreground)


def _check(args: argparse.Namespace, out: Path) -> None:
    """Raises for mistakes that are visible without the model, which takes seconds to build."""
    if not Path(args.image).is_file():
        raise MissingFileError(f'{args.image}: no such image; check the path')
    if cv2.imread(args.image) is None:
        raise DataError(
            f'{args.image}: OpenCV cannot decode the image; name a complete image file, such as a JPEG or PNG'
        )
    if out.suffix[1:] not in Figure().canvas.get_supported_filetypes():
        raise ConfigError(f'--out: matplotlib cannot write {out}; use the suffix .png or .jpg')
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # torch's words differ from build to build
        raise ConfigError(
            f'--device: PyTorch cannot use {args.device} here ({str(error).splitlines()[0]}); try --device cpu'
        ) from error


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turns an error of writing into one line."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f'--out: {path} cannot be written ({error.strerror}); name a file in a folder with write permission'
        ) from error


def _load_model(cfg: Config, args: argparse.Namespace) -> nn.Module:
    """Builds the detector and loads its weights."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model) if 'model' in cfg else None
    if not isinstance(getattr(model, 'bbox_head', None), RepPointsV2Head):
        raise ConfigError(
            f'{args.config}: model.bbox_head is not a RepPointsV2Head, the only one with corner heatmaps; '
            'name a config such as reppointsv2_focal_tiny_3x'
        )
    if not cfg.get('test_dataloader') or not cfg.model.get('train_cfg'):
        raise ConfigError(
            f'{args.config}: test_dataloader or model.train_cfg is missing; the one has the pipeline, the other says '
            'how targets are computed'
        )
    register_safe_loaders()
    checkpoint = load_checkpoint(model, args.checkpoint, map_location='cpu', logger='silent')
    check_compatible(model, checkpoint, args.checkpoint)
    return model.to(args.device).eval()


def _load_image(cfg: Config, path: str) -> tuple[dict, list[str], str | None, list[str]]:
    """Runs the test pipeline on an image.

    Returns:
        Its output, with annotations if a data set of the config has the image; names of the classes; the annotation
        file, or None; messages about data sets that do not exist.
    """
    loading, *others = get_test_pipeline_cfg(cfg)
    # For evaluation, test pipelines may load annotations after resizing, in pixels of the original image.
    annotations = [step for step in others if step.type.endswith('LoadAnnotations')] or [
        dict(type='LoadAnnotations', with_bbox=True)
    ]
    others = [step for step in others if not step.type.endswith('LoadAnnotations')]

    real_path, seen, absent = os.path.realpath(path), [], []
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        for settings in iterate_inner((cfg.get(loader) or {}).get('dataset', {})):
            if not settings or settings in seen:
                continue
            seen.append(settings)
            try:
                data_set = DATASETS.build(
                    dict(settings, pipeline=[loading, *annotations, *others], test_mode=True, serialize_data=False)
                )
            except MissingFileError as error:
                absent.append(f'{loader} was not searched: {error}')
                continue
            for i, data_info in enumerate(data_set.data_list):
                if os.path.realpath(data_info['img_path']) == real_path:
                    return data_set[i], data_set.metainfo['classes'], data_set.ann_file, absent
    classes = DATASETS.build(dict(seen[0], lazy_init=True)).metainfo['classes']
    return Compose([loading, *others])(dict(img_path=path, img_id=0)), classes, None, absent


def draw(
    title: str,
    pixels: np.ndarray,
    halves: dict[str, Maps],
    levels: list[int],
    strides: list[int],
    classes: list[str],
    score_thr: float,
) -> Figure:
    """Draws boxes, corner heatmaps and foreground maps over an image: one row per level, predictions above targets.

    Args:
        title: Title of the picture.
        pixels: The padded image (H, W, 3), RGB, 0 to 255.
        halves: Maps to draw, by name.
        levels: Levels to draw.
        strides: Pixels per cell, of all levels.
        classes: Names of the classes.
        score_thr: Lowest value to mark or name.

    Returns:
        The figure, for `savefig`.
    """
    rows, large = len(levels), min(len(levels), 2)  # boxes are drawn larger where there are rows for it
    ratio = min(max(pixels.shape[0] / pixels.shape[1], 0.2), 5)
    width, height = max(3.4 / ratio**0.5, 3), 3.4 * ratio**0.5
    total_width, total_height = (large + 3) * (width + 0.15) + 1.1, len(halves) * rows * (height + 0.5) + 0.4
    figure = Figure(figsize=(total_width, total_height))
    grid = figure.add_gridspec(
        len(halves) * rows,
        4,
        width_ratios=[large, 1, 1, 1],
        wspace=0.15 / width,
        hspace=0.5 / height,
        left=0.4 / total_width,
        right=1 - 0.8 / total_width,
        bottom=0.25 / total_height,
        top=1 - 0.75 / total_height,
    )
    figure.suptitle(title, y=1 - 0.1 / total_height, fontsize=10)
    grey = dimmed(pixels)
    for half, (name, maps) in enumerate(halves.items()):
        _draw_boxes(
            figure.add_subplot(grid[half * rows : half * rows + large, 0]), pixels, name, maps, classes, score_thr
        )
        for row, level in enumerate(levels, half * rows):
            stride, where = strides[level], f'level {level}, stride {strides[level]}'
            for column, corner in enumerate(('top-left', 'bottom-right')):
                axis = figure.add_subplot(grid[row, 1 + column])
                heatmap = maps.corners[level][column]
                _draw_heat(axis, grey, heatmap, stride, stride / 2)  # the point of a cell is drawn at its middle
                is_peak = (heatmap == F.max_pool2d(heatmap[None], 3, 1, 1)[0]) & (heatmap >= score_thr)
                y, x = is_peak.nonzero().T.cpu().numpy() * stride  # ringed, since a cell of a large image is tiny
                axis.plot(
                    x,
                    y,
                    'o',
                    markersize=9,
                    markerfacecolor='none',
                    markeredgecolor=MARKS,
                    markeredgewidth=1,
                    clip_on=False,
                    path_effects=[withStroke(linewidth=2.5, foreground='black')],
                )
                peaks = f'{len(x)} peaks from {score_thr:.3g} (rings), highest {heatmap.max():.2f}'
                axis.set_title(f'{name}: {corner} corners, {where}\n{peaks}', fontsize=8)
            axis = figure.add_subplot(grid[row, 3])
            _draw_heat(axis, grey, maps.foreground[level].amax(0), stride, 0)
            best = maps.foreground[level].amax((1, 2))
            order = best.argsort(descending=True, stable=True)[: max(1, int((best >= score_thr).sum()))]
            named = ', '.join(f'{classes[i]} {best[i]:.2f}' for i in order[:3])
            more = f' and {len(order) - 3} more' if len(order) > 3 else ''
            axis.set_title(f'{name}: foreground, {where}\n{named}{more}', fontsize=8)
    bar = figure.add_axes((1 - 0.6 / total_width, 0.25, 0.15 / total_width, 0.5), facecolor='black')
    figure.colorbar(ScalarMappable(cmap=HEAT), cax=bar)
    bar.tick_params(labelsize=8)
    return figure


def _draw_boxes(axis: Axes, pixels: np.ndarray, name: str, maps: Maps, classes: list[str], score_thr: float) -> None:
    axis.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0))
    axis.set_anchor('N')
    labels = [classes[label] for label in maps.boxes.labels]
    if 'scores' in maps.boxes:
        labels = [f'{label} {score:.2f}' for label, score in zip(labels, maps.boxes.scores)]
    for boxes, style in ((maps.boxes.bboxes, dict(color=MARKS)), (maps.ignored, dict(color='white', linestyle='--'))):
        for left, top, right, bottom in boxes.tolist():
            axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=1.3, **style))
    for (left, top, *_), label in reversed(list(zip(maps.boxes.bboxes.tolist(), labels))):  # the best is on top
        axis.text(
            left,
            top,
            label,
            fontsize=7,
            va='bottom',
            clip_on=True,
            bbox=dict(facecolor=MARKS, edgecolor='none', pad=0.8),
        )
    scored = f' from a score of {score_thr:.3g}' if 'scores' in maps.boxes else ''
    ignored = f', {len(maps.ignored)} ignored (dashed)' if len(maps.ignored) else ''
    axis.set_title(f'{name}: {len(labels)} boxes{scored}{ignored}', fontsize=8)
    axis.tick_params(labelsize=7)


def _draw_heat(axis: Axes, grey: np.ndarray, heatmap: Tensor, stride: int, shift: float) -> None:
    height, width = grey.shape[:2]
    rows, columns = heatmap.shape
    axis.imshow(grey, extent=(0, width, height, 0))
    axis.imshow(
        heatmap.cpu().numpy(),
        cmap=HEAT,
        vmin=0,
        vmax=1,
        interpolation='nearest',
        extent=(-shift, columns * stride - shift, rows * stride - shift, -shift),
    )
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=(), yticks=())
