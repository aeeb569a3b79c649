"""Trains a small detector on generated shapes, prints its box AP and draws what it finds: in minutes, on a CPU."""

import argparse
import os
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from mmengine.runner import Runner

CONFIG = 'atss_focal_nano_shapes'
WEIGHTS = 'mmfocal://focal_nano_shapes'  # dev/small_scale.py pretrain; docs/get_started/demo.md has the command
NUM_TRAIN, NUM_VAL = 3400, 300
SCALE = 3  # pictures are drawn larger than the images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('--seed', type=int, default=0, help='random seed of the training (default: 0)')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: work_dirs/demo')
    parser.add_argument(
        '--pretrained',
        action='store_true',
        help='start from a backbone that has learnt to classify generated shapes (default: from scratch)',
    )


def main(args: argparse.Namespace) -> None:
    """Makes the data set, trains, and draws predictions beside ground truth.

    Args:
        args: Of `add_arguments`.
    """
    from mmengine.registry import RUNNERS

    import mmfocal.registration  # noqa: F401  registers what configs name
    from mmfocal.datasets.shapes import make_shapes
    from mmfocal.engine import read_config

    os.environ.setdefault('SHAPES_ROOT', 'data/shapes')
    start = time.time()
    shapes = os.environ['SHAPES_ROOT']
    made = make_shapes(shapes, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=0, size=(128, 136))
    print(
        f'{shapes}: {NUM_TRAIN} training and {NUM_VAL} held-out images,',
        'generated' if made else 'already there',
        flush=True,
    )
    cfg = read_config(CONFIG)
    cfg.update(work_dir=args.work_dir, randomness=dict(seed=args.seed), runner_type='FocalRunner')
    if args.pretrained:
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=WEIGHTS)
    runner = RUNNERS.build(cfg)
    runner.train()
    scalar = runner.message_hub.log_scalars.get('val/coco/bbox_mAP')
    average_precision = scalar.current() if scalar else 0.0  # absent if nothing at all was detected
    sheet = draw(runner, Path(args.work_dir) / 'pictures')
    checkpoint = Path(args.work_dir, 'last_checkpoint').read_text()
    unseen = predict_unseen(checkpoint, Path(args.work_dir) / 'unseen.jpg')
    python = Path(sys.executable)
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else 'python'

    minutes = (time.time() - start) / 60
    test = f'{python} -m mmfocal test {CONFIG} {os.path.relpath(checkpoint)}'
    print(f"""
box AP {average_precision:.3f} on {NUM_VAL} held-out images (seed {args.seed}), {minutes:.1f} minutes in all
ground truth (left) beside predictions (right): {sheet}
prediction on an image of another set: {unseen}

Try next: test the checkpoint with flipped images (python -m mmfocal test --help lists more):
  SHAPES_ROOT={shapes} {test} --tta --show-dir {args.work_dir}/all
or train on COCO (README.md, "Data"):
  COCO_ROOT=data/coco/ FOCAL_TINY=none {python} -m mmfocal train atss_focal_tiny_3x""")


def predict_unseen(checkpoint: str, path: Path) -> Path:
    """Draws what the checkpoint finds in an image that is in no data set; returns `path`, the picture."""
    import numpy as np

    from mmfocal import Predictor
    from mmfocal.datasets.shapes import make_image

    image = make_image(np.random.default_rng(7), size=(128, 136))[0][..., ::-1]  # RGB
    predictor = Predictor(checkpoint)
    predictor.draw(image, predictor(image), path)
    return path


def draw(runner: 'Runner', folder: Path, count: int = 12, score_thr: float = 0.3) -> Path:
    """Draws ground truth beside predictions for the first validation images.

    Args:
        runner: After training.
        folder: Gets one PNG per image, and the contact sheet.
        count: Number of images.
        score_thr: Lowest score that is drawn.

    Returns:
        The contact sheet.
    """
    import cv2
    import numpy as np
    import torch

    dataset, visualizer = runner.val_dataloader.dataset, runner.visualizer
    visualizer.dataset_meta = dataset.metainfo
    runner.model.eval()
    pictures = []
    for i in range(count):
        data = dataset[i]
        image = cv2.resize(
            data['inputs'].permute(1, 2, 0).numpy(), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC
        )
        with torch.no_grad():
            sample = runner.model.test_step(
                dict(inputs=[data['inputs']], data_samples=[deepcopy(data['data_samples'])])
            )[0]
        for instances in (sample.gt_instances, sample.pred_instances):
            instances.bboxes = instances.bboxes * SCALE
        path = folder / f'{Path(sample.img_path).stem}.png'
        visualizer.add_datasample('demo', image[..., ::-1], sample, pred_score_thr=score_thr, out_file=str(path))
        both = cv2.imread(str(path))  # ground truth and predictions, edge to edge
        gap = np.full((both.shape[0], 6, 3), 255, np.uint8)
        pictures.append(np.hstack([both[:, : image.shape[1]], gap, both[:, image.shape[1] :]]))
    return contact_sheet(pictures, folder / 'contact_sheet.jpg')


def contact_sheet(pictures: list['np.ndarray'], path: Path, columns: int = 3, margin: int = 24) -> Path:
    """Writes pictures of any sizes onto one white sheet; returns its path."""
    import cv2
    import numpy as np

    height, width = (max(picture.shape[side] for picture in pictures) + margin for side in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    cv2.imwrite(str(path), sheet)
    return path
