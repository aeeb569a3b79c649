"""`tools/benchmark.py iteration`: the time of a detector's training iteration, and of what its head does besides layers."""
import argparse
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Tuple
from unittest import mock

import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmfocal.engine import read_config
from mmfocal.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tools/benchmark.py iteration`."""
    parser.add_argument('config', help='config of a one-stage detector')
    parser.add_argument('--size', default='800x1333', metavar='HEIGHTxWIDTH', help='of the images (default: 800x1333)')
    parser.add_argument('--batch', type=int, default=2, metavar='N', help='images a batch (default: 2)')
    parser.add_argument('--boxes', type=int, default=50, metavar='N', help='boxes an image (default: 50)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda where there is a GPU')
    parser.add_argument('--repeats', type=int, default=5, metavar='N', help='iterations; medians are over them (default: 5)')


def main(args: argparse.Namespace) -> None:
    """Measures and prints.

    Args:
        args (argparse.Namespace): Of `add_arguments`.

    Raises:
        ConfigError: If an argument cannot work.
    """
    height, _, width = args.size.partition('x')
    if not (height.isdigit() and width.isdigit() and min(int(height), int(width)) >= 32):
        raise ConfigError(f'--size {args.size}: must be HEIGHTxWIDTH, in pixels, of 32 at least, as 800x1333')
    if min(args.batch, args.repeats) < 1 or args.boxes < 0:
        raise ConfigError(f'--batch {args.batch}, --repeats {args.repeats}, --boxes {args.boxes}: must be at least 1, 1 and 0')
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    total, parts = measure(args.config, (int(height), int(width)), args.batch, args.boxes, device, args.repeats)
    machine = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    print(f'{Path(args.config).stem}, {args.batch} × {args.size}, {args.boxes} boxes an image; {machine}, '
          f'torch {torch.__version__}; medians of {args.repeats}')
    print(f'{"training iteration":22}{1e3 * total:10.1f} ms')
    for name, seconds in parts.items():
        print(f'{name:22}{1e3 * seconds:10.1f} ms {seconds / total:9.3%}')


def measure(config: str, size: Tuple[int, int], batch: int, boxes: int, device: str, repeats: int) -> Tuple[float, Dict[str, float]]:
    """Times training iterations on random images and boxes.

    Args:
        config (str): Path of a detector's config.
        size (tuple[int, int]): Height and width of the images in pixels.
        batch (int): Images.
        boxes (int): Boxes an image.
        device (str): 'cpu' or 'cuda'.
        repeats (int): Iterations to time, after two that are not.

    Returns:
        tuple[float, dict[str, float]]: Median seconds of an iteration; name → median seconds in it of its parts.

    Raises:
        ConfigError: If the config is not of a one-stage detector.
    """
    cfg = read_config(config)
    MMLogger.get_instance('iteration', log_level='ERROR')  # not a line for each parameter that is frozen or without weight decay
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    if not hasattr(model, 'bbox_head'):
        raise ConfigError(f'{config}: its model, {cfg.model.type}, has no bbox_head; iteration times one-stage detectors')
    torch.manual_seed(0)
    model.to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    data = random_batch(size, batch, boxes, model.bbox_head.num_classes)
    synchronize = torch.cuda.synchronize if device == 'cuda' else (lambda: None)
    seconds: Dict[str, List[float]] = defaultdict(list)

    def timed(name, function):
        def wrapper(*args, **kwargs):
            synchronize()
            start = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize()
            seconds[name][-1] += time.perf_counter() - start
            return result
        return wrapper

    with ExitStack() as patches:
        for name, owner, attribute in functions(model):
            patches.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        step = timed('iteration', lambda: model.train_step(data, optim_wrapper))
        names = ['iteration', *(name for name, *_ in functions(model))]
        for _ in range(2 + repeats):
            for name in names:
                seconds[name].append(0.)
            step()
    medians = {name: statistics.median(seconds[name][2:]) for name in names}
    return medians.pop('iteration'), medians


def functions(model) -> List[Tuple[str, object, str]]:
    """What is timed of an iteration: name, owner and attribute."""
    found = [('targets of points', model.bbox_head, 'get_targets')]
    if hasattr(model.bbox_head, 'get_heatmap_targets'):
        from mmfocal.detection import reppoints_v2_head
        found += [('targets of corners', model.bbox_head, 'get_heatmap_targets'),
                  ('foreground maps', reppoints_v2_head, 'foreground_weights')]
    return found


def random_batch(size, batch, boxes, num_classes):
    """Random images with boxes of COCO's range of sizes, as a data loader gives them."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    samples = []
    extent = torch.tensor([size[1], size[0]])
    for _ in range(batch):
        sides = extent * torch.exp(torch.empty(boxes, 2).uniform_(-4.5, -0.1))  # 1 % to 90 % of the image's
        corner = torch.rand(boxes, 2) * (extent - sides)
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + sides], 1), labels=torch.randint(num_classes, (boxes,)))
        samples.append(sample)
    return dict(inputs=list(torch.randint(256, (batch, 3, *size), dtype=torch.uint8)), data_samples=samples)
