"""Measures time and memory of a training iteration or a prediction, and the time of a one-stage head's targets."""

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn
from torch.nn.functional import interpolate

from mmfocal.benchmark.arguments import at_least, image_size
from mmfocal.engine import read_config
from mmfocal.memory import peak_resident_memory
from mmfocal.ops import mmcv_ops

PARTS = {  # of an iteration: methods of a one-stage head
    'targets of points': 'get_targets',
    'targets of corners': 'get_heatmap_targets',
    'foreground maps': 'get_foreground_targets',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py iteration`."""
    parser.add_argument('config', help='config of a detector or segmentor')
    parser.add_argument(
        '--size',
        type=image_size,
        metavar='HEIGHTxWIDTH',
        help='image size in pixels (default: 800x1333, and 512x512 for segmentors)',
    )
    parser.add_argument('--batch', type=at_least(1), default=2, metavar='N', help='images per batch (default: 2)')
    parser.add_argument(
        '--boxes', type=at_least(0), default=50, metavar='N', help='boxes per image for a detector (default: 50)'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is a GPU')
    parser.add_argument('--test', action='store_true', help='time predictions instead of training iterations')
    parser.add_argument(
        '--mmcv-ops', choices=mmcv_ops.CHOICES, help='operators of mmcv.ops (default: MMFOCAL_MMCV_OPS, or auto)'
    )
    parser.add_argument(
        '--repeats', type=at_least(1), default=5, metavar='N', help='iterations; results are medians (default: 5)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.backbone.with_cp=True',
    )


def main(args: argparse.Namespace) -> None:
    """Measures and prints.

    Args:
        args: Of `add_arguments`.
    """
    operators = mmcv_ops.install(args.mmcv_ops)
    cfg = read_config(args.config, args.cfg_options)
    segmentation = cfg.default_scope == 'mmseg'
    height, width = args.size or ((512, 512) if segmentation else (800, 1333))
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    total, parts = measure(cfg, (height, width), args.batch, args.boxes, device, args.repeats, args.test)
    machine = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    boxes = '' if segmentation else f', {args.boxes} boxes per image'
    print(
        f'{Path(args.config).stem}, {args.batch} × {height}x{width}{boxes}; {machine}, '
        f'torch {torch.__version__}; {operators}; medians of {args.repeats}'
    )
    print(f'{"prediction" if args.test else "training iteration":22}{1e3 * total:10.1f} ms')
    for name, seconds in parts.items():
        print(f'{name:22}{1e3 * seconds:10.1f} ms {seconds / total:9.3%}')
    print(f'{"peak memory":22}{peak_memory(device) / 2**20:10.0f} MiB')


def measure(
    cfg: Config, size: tuple[int, int], batch: int, boxes: int, device: str, repeats: int, test: bool = False
) -> tuple[float, dict[str, float]]:
    """Times training iterations, or predictions, on random images, boxes and label maps.

    Args:
        cfg: Of a detector or segmentor.
        size: Height and width of the images in pixels.
        batch: Images per batch.
        boxes: Boxes per image for a detector, with masks if it learns them.
        device: 'cpu' or 'cuda'.
        repeats: Iterations to time, after two that warm up.
        test: Whether the batch is predicted instead of trained on.

    Returns:
        Median seconds of an iteration; part → its median seconds in an iteration.
    """
    MMLogger.get_instance('iteration', log_level='ERROR')  # no line per frozen or undecayed parameter
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    segmentation = cfg.default_scope == 'mmseg'
    if segmentation:
        cfg.model.data_preprocessor.size = size
    cfg.model.backbone.init_cfg = None  # weights do not change the time; nothing is downloaded
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).train(not test)
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    data = random_segmentation_batch(model, size, batch) if segmentation else random_batch(model, size, batch, boxes)
    synchronize = torch.cuda.synchronize if device == 'cuda' else (lambda: None)
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name, function):
        def wrapper(*args, **kwargs):
            synchronize()
            start = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize()
            seconds[name][-1] += time.perf_counter() - start
            return result

        return wrapper

    head = getattr(model, 'bbox_head', None)
    parts = {name: method for name, method in PARTS.items() if hasattr(head, method) and not test}
    with ExitStack() as patches:
        for name, method in parts.items():
            patches.enter_context(mock.patch.object(head, method, timed(name, getattr(head, method))))
        if test:
            step = timed('iteration', torch.no_grad()(lambda: model.test_step(data)))
        else:
            step = timed('iteration', lambda: model.train_step(data, optim_wrapper))
        names = ['iteration', *parts]
        for _ in range(2 + repeats):
            for name in names:
                seconds[name].append(0.0)
            step()
    medians = {name: statistics.median(seconds[name][2:]) for name in names}
    return medians.pop('iteration'), medians


def peak_memory(device: str) -> int:
    """Returns bytes: PyTorch's peak allocation on a GPU, else the peak resident memory of the process."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    return peak_resident_memory() or 0


def random_batch(model: nn.Module, size: tuple[int, int], batch: int, boxes: int) -> dict[str, list]:
    """Makes random images and annotations for a detector: boxes of COCO's sizes, masks that fill them, stuff."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    samples = []
    extent = torch.tensor([size[1], size[0]])
    num_classes = min(
        getattr(module, 'num_things_classes', None) or module.num_classes
        for name, module in model.named_modules()
        if hasattr(module, 'num_classes') and name != 'rpn_head'
    )
    for _ in range(batch):
        sides = extent * torch.exp(torch.empty(boxes, 2).uniform_(-4.5, -0.1))  # 1 % to 90 % of the image's
        corner = torch.rand(boxes, 2) * (extent - sides)
        bboxes = torch.cat([corner, corner + sides], 1)
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(bboxes=bboxes, labels=torch.randint(num_classes, (boxes,)))
        if not hasattr(model, 'bbox_head'):
            masks = np.zeros((boxes, *size), dtype=np.uint8)
            for mask, (left, top, right, bottom) in zip(masks, bboxes.tolist()):
                mask[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = 1
            sample.gt_instances.masks = BitmapMasks(masks, *size)
        if getattr(model, 'num_stuff_classes', 0):
            sample.gt_sem_seg = PixelData(sem_seg=num_classes + random_label_map(model.num_stuff_classes, size))
        samples.append(sample)
    return dict(inputs=random_images(size, batch), data_samples=samples)


def random_segmentation_batch(model: nn.Module, size: tuple[int, int], batch: int) -> dict[str, list]:
    """Makes random images and label maps for a segmentor."""
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        sample.gt_sem_seg = PixelData(data=random_label_map(model.decode_head.num_classes, size))
        samples.append(sample)
    return dict(inputs=random_images(size, batch), data_samples=samples)


def random_images(size: tuple[int, int], batch: int) -> list[torch.Tensor]:
    return list(torch.randint(256, (batch, 3, *size), dtype=torch.uint8))


def random_label_map(num_classes: int, size: tuple[int, int]) -> torch.Tensor:
    """Makes a label map (1, H, W) of twelve rectangles."""
    labels = torch.randint(num_classes, (1, 1, 3, 4))
    return interpolate(labels.float(), size)[0].long()
