"""Counts what a data set holds: boxes per class, their sizes and shapes, or pixels per class; as a page and a table.

For a detector with anchors or points, it also tells which boxes they cover at the config's image size.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope

from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine import read_config
from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically
from mmfocal.text import format_table
from mmfocal.visualization.data_stats_page import render_page

SIZES = ('small', 'medium', 'large')
LIMITS = (32**2, 96**2)  # COCO's, in pixels of area
IGNORED = 255


@dataclass
class Statistics:
    """What a data set holds.

    Args:
        classes: Names of the classes.
        image_sizes: Height and width of each image.
        boxes: Width and height of each box, in pixels.
        labels: Class of each box.
        box_images: Image of each box, its place in `image_sizes`.
        ignored: Number of crowds and other ignored boxes.
        pixels: Pixels of each class and last the ignored ones, over the label maps that were read; () without any.
        pixel_images: Label maps that have the class, as `pixels`.
        label_maps: Number of label maps that were read.
        segments: Segments of each class, of panoptic data; () without any.
        coverage: Of the boxes whose places are `covered_boxes`; None without anchors and points.
        scale: The image size that the coverage is for.
    """

    classes: tuple[str, ...]
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box_images: list[int] = field(default_factory=list)
    ignored: int = 0
    pixels: Any = ()
    pixel_images: Any = ()
    label_maps: int = 0
    segments: Any = ()
    coverage: Any = None
    covered_boxes: list[int] = field(default_factory=list)
    scale: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('config', help='config: a file, a name, or mmdet::PATH or mmseg::PATH')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
    parser.add_argument(
        '--num',
        type=int,
        default=1000,
        metavar='N',
        help='images whose label maps are read, or whose boxes are compared with anchors, 0 for all (default: 1000)',
    )
    parser.add_argument('--out', metavar='FILE', help='the page to write (default: work_dirs/data_stats/CONFIG.html)')
    parser.add_argument('--json', metavar='FILE', help='write the figures there')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config',
    )


def main(args: argparse.Namespace) -> None:
    """Prints the table and writes the page.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the config or a data set cannot be used.
    """
    cfg = read_config(args.config, args.cfg_options)
    name = Path(cfg.filename).stem
    out = Path(args.out or f'work_dirs/data_stats/{name}.html')
    if args.num < 0:
        raise ConfigError(f'--num {args.num}: give a number of images, or 0 for all')
    statistics = collect(cfg, args.split, args.num)
    figures = summarize(statistics)
    print(format_table([[str(cell) for cell in row] for row in table(figures)]))
    for line in figures['sentences']:
        print(line)
    write_atomically(out, render_page(f'{name}, {args.split}', figures, statistics))
    print(out)
    if args.json:
        write_atomically(args.json, json.dumps(figures, indent=1, ensure_ascii=False) + '\n')


def collect(cfg: Config, split: str, number: int = 0) -> Statistics:
    """Goes through a split's data sets; those in wrappers are counted once.

    Args:
        cfg: The config.
        split: 'train', 'val' or 'test'.
        number: Most label maps to read, and most images to compare with anchors, drawn with seed 0; 0 for all.

    Raises:
        ConfigError: If there is no data set, or it holds neither boxes nor label maps.
    """
    settings = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    if not settings:
        raise ConfigError(f'{cfg.filename}: it has no {split}_dataloader.dataset; choose another --split')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    datasets = [DATASETS.build(one) for one in iterate_inner(settings)]
    classes = tuple(map(str, datasets[0].metainfo.get('classes') or ()))
    found = Statistics(classes)
    infos = [(dataset, dataset.get_data_info(i)) for dataset in datasets for i in range(len(dataset))]
    chosen = range(len(infos))
    if number and number < len(infos):
        chosen = sorted(np.random.default_rng(0).choice(len(infos), number, replace=False).tolist())
    if any('instances' in info for _, info in infos):
        _count_boxes(cfg, [info for _, info in infos], set(chosen), found)
    elif any(info.get('seg_map_path') for _, info in infos):
        _count_pixels((infos[i] for i in chosen), found)
    elif any('gt_label' in info for _, info in infos):
        raise ConfigError(
            f'{cfg.filename}: data-stats counts boxes and pixels, and the {split} data set has one label per image; '
            'mmfocal check-dataset lists classes without images'
        )
    else:
        raise ConfigError(f'{cfg.filename}: the {split} data set has neither boxes nor label maps')
    return found


def _count_boxes(cfg: Config, infos: list[dict], chosen: set[int], found: Statistics) -> None:
    from mmfocal.visualization.anchor_coverage import AnchorCoverage  # needs MMDetection

    anchors = AnchorCoverage(cfg)
    segments = np.zeros(len(found.classes), int)
    for i, info in enumerate(infos):
        found.image_sizes.append((info['height'], info['width']))
        kept = []
        for instance in info['instances']:
            if instance['ignore_flag']:
                found.ignored += 1
                continue
            left, top, right, bottom = instance['bbox']
            kept.append([left, top, right, bottom])
            found.boxes.append((right - left, bottom - top))
            found.labels.append(instance['bbox_label'])
            found.box_images.append(i)
        for segment in info.get('segments_info', ()):
            segments[segment['category']] += 1
        if i in chosen and kept and anchors.coverage is not None:
            found.covered_boxes += range(len(found.boxes) - len(kept), len(found.boxes))
            anchors.add(np.array(kept), info['height'], info['width'])
    if segments.any():
        found.segments = segments
    if anchors.coverage is not None:
        found.coverage, found.scale = anchors.coverage, anchors.scale


def _count_pixels(infos: Iterator[tuple[Any, dict]], found: Statistics) -> None:
    found.pixels = np.zeros(len(found.classes) + 1, np.int64)
    found.pixel_images = np.zeros(len(found.classes) + 1, np.int64)
    for dataset, info in infos:
        loading = [step for step in dataset.pipeline.transforms if 'Annotations' in type(step).__name__]
        if not loading:
            raise ConfigError('the pipeline loads no label maps; choose another --split')
        values = Compose(loading[:1])(info)['gt_seg_map']
        counts = np.bincount(values.ravel(), minlength=256)
        counts = np.append(counts[: len(found.classes)], counts[len(found.classes) :].sum())
        found.pixels += counts
        found.pixel_images += counts > 0
        found.image_sizes.append(values.shape[:2])
        found.label_maps += 1


def summarize(found: Statistics) -> dict[str, Any]:
    """Returns the figures of a page: `rows`, one per class; `totals`; `sentences` about the whole."""
    if found.label_maps:
        return _summarize_pixels(found)
    sizes = np.array(found.boxes, float).reshape(-1, 2)
    labels, images = np.array(found.labels, int), np.array(found.box_images, int)
    area = sizes.prod(1)
    group = np.digitize(area, LIMITS)
    rows = []
    for label, name in enumerate(found.classes):
        of = labels == label
        row = dict(
            name=name,
            boxes=int(of.sum()),
            images=len(np.unique(images[of])),
            **{size: int((of & (group == i)).sum()) for i, size in enumerate(SIZES)},
            side=round(float(np.median(np.sqrt(area[of]))), 1) if of.any() else None,
        )
        if len(found.segments):
            row['segments'] = int(found.segments[label])
        if found.coverage is not None:
            row['covered'] = _share(found, of)
        rows.append(row)
    per_image = np.bincount(images, minlength=len(found.image_sizes))
    totals = dict(
        images=len(found.image_sizes),
        boxes=len(labels),
        ignored=found.ignored,
        empty=int((per_image == 0).sum()),
        absent=[row['name'] for row in rows if not row['boxes'] and not row.get('segments')],
        **{size: int((group == i).sum()) for i, size in enumerate(SIZES)},
        per_image=dict(
            mean=round(float(per_image.mean()), 2), median=float(np.median(per_image)), most=int(per_image.max())
        ),
    )
    coverage = None
    if found.coverage is not None:
        coverage = dict(
            kind=found.coverage.kind,
            criterion=found.coverage.criterion,
            scale=found.scale,
            boxes=len(found.covered_boxes),
            share=_share(found, np.ones(len(labels), bool)),
            **{size: _share(found, group == i) for i, size in enumerate(SIZES)},
        )
    return dict(kind='boxes', rows=rows, totals=totals, coverage=coverage, sentences=_sentences(totals, coverage))


def _share(found: Statistics, of: np.ndarray) -> float | None:
    """Returns the share of covered boxes among those of a mask, or None if there is none."""
    chosen = np.array(found.covered_boxes, int)
    picked = np.array(found.coverage.covered, bool)[of[chosen]] if len(chosen) else np.zeros(0)
    return round(float(picked.mean()), 4) if len(picked) else None


def _sentences(totals: dict, coverage: dict | None) -> list[str]:
    per_image = totals['per_image']
    lines = [
        f'{totals["images"]} images with {totals["boxes"]} boxes of {per_image["mean"]:g} per image '
        f'(median {per_image["median"]:g}, most {per_image["most"]}); {totals["empty"]} images have none, '
        f'{totals["ignored"]} boxes are ignored',
        'sizes by area of the box, below 32², below 96² and larger: '
        + ', '.join(f'{totals[size]} {size}' for size in SIZES),
    ]
    if coverage and coverage['share'] is not None:
        by_size = ', '.join(f'{size} {coverage[size]:.1%}' for size in SIZES if coverage[size] is not None)
        lines.append(
            f'{coverage["kind"]}: {coverage["share"]:.1%} of {coverage["boxes"]} boxes covered ({by_size}): '
            f'{coverage["criterion"]}; images at {coverage["scale"]}'
        )
    return lines


def _summarize_pixels(found: Statistics) -> dict[str, Any]:
    total, labelled = int(found.pixels.sum()), int(found.pixels[:-1].sum())
    rows = [
        dict(name=name, pixels=int(pixels), share=pixels / max(labelled, 1), images=int(images))
        for name, pixels, images in zip(found.classes, found.pixels, found.pixel_images)
    ]
    ignored = float(found.pixels[-1] / max(total, 1))
    totals = dict(
        images=found.label_maps,
        pixels=total,
        ignored=ignored,
        absent=[row['name'] for row in rows if not row['pixels']],
    )
    sentences = [f'{found.label_maps} label maps with {total} pixels, of which {ignored:.1%} are ignored']
    return dict(kind='pixels', rows=rows, totals=totals, coverage=None, sentences=sentences)


def table(figures: dict[str, Any]) -> list[list[str]]:
    """Returns the table for the terminal, with a head."""
    if figures['kind'] == 'pixels':
        rows = [['class', 'pixels', 'share', 'images']]
        return rows + [
            [row['name'], f'{row["pixels"]}', f'{row["share"]:.2%}', f'{row["images"]}'] for row in figures['rows']
        ]
    covered = figures['coverage'] is not None
    segments = any('segments' in row for row in figures['rows'])
    rows = [
        ['class', 'boxes', 'images', *SIZES, 'median side', *['segments'] * segments, *['covered'] * covered],
    ]
    for row in figures['rows']:
        cells = [row['name'], *(str(row[key]) for key in ('boxes', 'images', *SIZES))]
        cells.append('–' if row['side'] is None else f'{row["side"]:g}')
        cells += [str(row['segments'])] if segments else []
        cells += ['–' if row['covered'] is None else f'{row["covered"]:.1%}'] if covered else []
        rows.append(cells)
    return rows
