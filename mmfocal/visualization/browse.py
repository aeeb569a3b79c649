"""Draws samples of a data set as training gets them: augmented, with their boxes, masks and label maps.

Samples are drawn at random and put on contact sheets. Nothing is shown in a window. What the data preprocessor does to
a batch, such as normalising and padding, is left out.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import DictAction
from mmengine.registry import DATASETS, TRANSFORMS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed

from mmfocal.datasets.palettes import make_palette
from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError
from mmfocal.visualization.figures import save_figure
from mmfocal.visualization.fonts import use_font_for

COLUMNS, ROWS = 4, 3  # of a sheet
CELL, GAP, CAPTION = 360, 8, 34  # pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('config', help='config: a file, a name, or mmdet::PATH or mmseg::PATH')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
    parser.add_argument('--num', type=int, default=COLUMNS * ROWS, metavar='N', help='samples to draw (default: 12)')
    parser.add_argument('--seed', type=int, default=0, help='of the choice and of the augmentation (default: 0)')
    parser.add_argument('--out', metavar='DIR', help='folder of the sheets (default: work_dirs/browse/CONFIG)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config',
    )


def main(args: argparse.Namespace) -> None:
    """Draws the sheets, and prints where they are.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the config or a data set cannot be used.
    """
    if args.num < 1:
        raise ConfigError(f'--num {args.num}: draw at least 1 sample')
    cfg = read_config(args.config, args.cfg_options)
    settings = (cfg.get(f'{args.split}_dataloader') or {}).get('dataset')
    if not settings:
        raise ConfigError(f'{args.config}: it has no {args.split}_dataloader.dataset; choose another --split')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    if args.split != 'train':
        load_annotations_first(settings)
    dataset = DATASETS.build(settings)
    fit = FitToCell(CELL)
    fit_samples(dataset, fit)
    painter = Painter(cfg, next(iterate_inner(dataset)).metainfo)

    out = Path(args.out or f'work_dirs/browse/{Path(cfg.filename).stem}')
    set_random_seed(args.seed)
    order = np.random.permutation(len(dataset))[: args.num]
    per_sheet = COLUMNS * ROWS
    for sheet in range(math.ceil(len(order) / per_sheet)):
        cells = []
        for index in order[sheet * per_sheet : (sheet + 1) * per_sheet]:
            sample = dataset[int(index)]
            cells.append((painter.draw(sample), _caption(sample, fit.size, painter.classes)))
        path = out / f'{args.split}_{sheet + 1:02}.jpg'
        save_figure(make_sheet(cells), path)
        print(f'{path}: {len(cells)} samples of {len(dataset)}')


class FitToCell:
    """A last transform: resizes a sample, with its boxes, masks and label map, to a cell of a sheet.

    Args:
        side: Longest side, in pixels.
    """

    def __init__(self, side: int):
        self.resize = TRANSFORMS.build(dict(type='Resize', scale=(side, side), keep_ratio=True))
        self.size = (0, 0)  # height and width of the latest sample before that

    def __call__(self, results: dict) -> dict:
        self.size = results['img'].shape[:2]
        return self.resize(results)


class Painter:
    """Draws a packed sample with the visualizer of its library.

    Args:
        cfg: The config, whose visualizer's type is used.
        metainfo: `classes` and `palette` of the data set.
    """

    def __init__(self, cfg: Any, metainfo: dict):
        classes = self.classes = tuple(map(str, metainfo.get('classes') or ()))
        palette = list(metainfo.get('palette') or ())
        palette = palette if len(palette) >= len(classes) else make_palette(len(classes))
        use_font_for(classes)
        scope = cfg.get('default_scope') or 'mmdet'
        default = 'SegLocalVisualizer' if scope == 'mmseg' else 'DetLocalVisualizer'
        kind = (cfg.get('visualizer') or {}).get('type', default)
        self.visualizer = VISUALIZERS.get(kind if '.' in kind else f'{scope}.{kind}')()
        self.visualizer.alpha = 0.6
        self.visualizer.dataset_meta = dict(classes=classes, palette=[tuple(colour) for colour in palette])

    def draw(self, sample: dict) -> np.ndarray:
        """Returns the image of a packed sample with its annotations, (H, W, 3), RGB."""
        inputs, annotated = sample['inputs'], sample['data_samples']
        if isinstance(inputs, list):  # of test-time augmentation
            inputs, annotated = inputs[0], annotated[0]
        image = to_rgb(inputs)
        # segments below instances: MMDetection would draw them over the boxes
        layers = [name for name in ('gt_sem_seg', 'gt_instances') if name in annotated]
        for name in layers:
            layer = type(annotated)(metainfo=annotated.metainfo)
            setattr(layer, name, _plain(getattr(annotated, name)))
            self.visualizer.add_datasample('browse', image, layer, draw_pred=False)
            image = self.visualizer.get_image()
        return image


def to_rgb(inputs: torch.Tensor) -> np.ndarray:
    """Returns an image tensor of a pipeline, (C, H, W), BGR, as (H, W, 3), RGB, uint8; the first of other channels."""
    channels = inputs[:3] if len(inputs) >= 3 else inputs[:1].repeat(3, 1, 1)
    pixels = channels.flip(0).permute(1, 2, 0).float()
    if inputs.dtype != torch.uint8 and float(pixels.max()) > 255:  # 16 bits
        pixels = pixels / pixels.max() * 255
    return np.ascontiguousarray(pixels.clamp(0, 255).byte().numpy())


def fit_samples(dataset: Any, fit: FitToCell) -> None:
    """Inserts a transform before the one that packs, which is a mixing wrapper's last or the innermost data sets'.

    Raises:
        ConfigError: If no pipeline packs.
    """
    if getattr(dataset, 'pipeline_types', None):  # a wrapper that mixes images
        transforms, names = dataset.pipeline, dataset.pipeline_types
    else:
        inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
        if inner[0] is not None:
            for one in inner:
                fit_samples(one, fit)
            return
        transforms, names = dataset.pipeline.transforms, []
    last = type(transforms[-1]).__name__ if transforms else 'nothing'
    if not last.startswith('Pack'):
        raise ConfigError(f'the pipeline ends with {last}; let it end with PackDetInputs or PackSegInputs')
    transforms.insert(len(transforms) - 1, fit)
    names.insert(len(names) - 1, type(fit).__name__)


def load_annotations_first(settings: Any) -> None:
    """Moves the loading of annotations to the images' in all pipelines of a data set's settings.

    For evaluation it may follow the resizing: annotations are then in pixels of the original image.
    """
    for inner in iterate_inner(settings):
        steps = inner.get('pipeline') or []
        loading = [step for step in steps if 'Annotations' in step['type'] and 'Load' in step['type']]
        inner['pipeline'] = [*steps[:1], *loading, *(step for step in steps[1:] if step not in loading)]


def make_sheet(cells: list[tuple[np.ndarray, str]]) -> Figure:
    """Puts images with captions on a sheet.

    Args:
        cells: Images (H, W, 3), RGB, and captions.

    Returns:
        The figure, for `save_figure`.
    """
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    width, height = columns * (CELL + GAP) + GAP, rows * (CELL + CAPTION) + GAP
    figure = Figure((width / 100, height / 100), dpi=100)
    for i, (image, caption) in enumerate(cells):
        left = GAP + i % columns * (CELL + GAP)
        top = GAP + i // columns * (CELL + CAPTION)
        figure.figimage(image, left + (CELL - image.shape[1]) // 2, height - top - image.shape[0])
        place = ((left + CELL / 2) / width, 1 - (top + image.shape[0] + 3) / height)
        figure.text(*place, caption, fontsize=8, ha='center', va='top')
    return figure


def _caption(sample: dict, size: tuple[int, int], classes: tuple[str, ...]) -> str:
    annotated = sample['data_samples']
    annotated = annotated[0] if isinstance(annotated, list) else annotated
    parts = [Path(annotated.metainfo.get('img_path') or '').name[-32:], f'{size[1]} × {size[0]}']
    if 'gt_instances' in annotated:
        number = len(annotated.gt_instances)
        parts.append(f'{number} object{"s" * (number != 1)}')
        ignored = len(annotated.get('ignored_instances') or ())
        parts += [f'{ignored} ignored'] if ignored else []
    if 'gt_label' in annotated:
        parts += [classes[label] for label in annotated.gt_label.tolist()]
    return ', '.join(filter(None, parts)).replace('$', r'\$')


def _plain(annotations: Any) -> Any:
    """Returns instances whose boxes are a tensor, or a label map as it is."""
    boxes = annotations.get('bboxes')
    if hasattr(boxes, 'tensor'):
        annotations = annotations.clone()
        annotations.bboxes = boxes.tensor
    return annotations
