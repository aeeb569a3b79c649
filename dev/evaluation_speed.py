"""Time of COCO's evaluation with pycocotools and with faster-coco-eval, on generated results.

    python dev/evaluation_speed.py --images 5000 --metric bbox segm

Both backends evaluate the same detections in turn, and their tables of precisions are compared. CPU time is that of
`evaluate` and `accumulate`.
"""

import argparse
import contextlib
import io
import os
import statistics
import time

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import COCOeval

from mmfocal.datasets.coco_evaluation import COCO, FasterEvaluation

HEIGHT, WIDTH, NUM_CLASSES, OBJECTS = 480, 640, 80, 7.3  # per image, as in val2017


def main() -> None:
    """Prints a line for each metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=5000, help='default: 5000')
    parser.add_argument('--detections', type=int, default=100, help='per image (default: 100)')
    parser.add_argument('--metric', nargs='+', choices=('bbox', 'segm'), default=['bbox', 'segm'])
    parser.add_argument('--rounds', type=int, default=3, help='default: 3')
    args = parser.parse_args()
    print(f'load average {os.getloadavg()[0]:.2f}')
    for metric in args.metric:
        truths, detections = make_results(args.images, args.detections, metric)
        pairs = []
        for _ in range(args.rounds):
            expected, slow = evaluate(COCOeval, truths, detections, metric)
            found, fast = evaluate(FasterEvaluation, truths, detections, metric)
            difference = np.abs(expected - found).max()
            pairs.append((slow, fast))
            print(
                f'{metric}, {args.images} images, {len(detections)} detections: {slow:.1f} s and {fast:.1f} s of CPU, '
                f'ratio {slow / fast:.1f}; precisions differ by at most {difference:.1e}',
                flush=True,
            )
        print(f'{metric}: median ratio {statistics.median(slow / fast for slow, fast in pairs):.1f}')


def make_results(num_images: int, num_detections: int, metric: str) -> tuple[COCO, list[dict]]:
    """Makes annotations, and detections of which half lie near them."""
    rng = np.random.default_rng(0)
    annotations, detections = [], []
    for image_id in range(1, num_images + 1):
        boxes, labels = random_boxes(rng, rng.poisson(OBJECTS))
        for box, label in zip(boxes, labels):
            area = box[2] * box[3]
            entry = dict(id=len(annotations) + 1, image_id=image_id, category_id=label, bbox=box.tolist(), area=area)
            annotations.append(dict(entry, iscrowd=int(rng.random() < 0.01), segmentation=[ellipse(box)]))
        found, classes = random_boxes(rng, num_detections)
        if len(boxes):
            near = rng.integers(len(boxes), size=num_detections // 2)
            found[: len(near)] = boxes[near] * rng.uniform(0.85, 1.15, (len(near), 4))
            classes[: len(near)] = labels[near]
        for box, label in zip(found, classes):
            entry = dict(image_id=image_id, category_id=int(label), score=float(rng.random()))
            shape = dict(bbox=box.tolist())
            if metric == 'segm':
                shape = dict(segmentation=mask_utils.frPyObjects([ellipse(box)], HEIGHT, WIDTH)[0])
            detections.append(dict(entry, **shape))
    truths = COCO()
    truths.dataset = dict(
        images=[dict(id=number, height=HEIGHT, width=WIDTH) for number in range(1, num_images + 1)],
        categories=[dict(id=number, name=str(number)) for number in range(1, NUM_CLASSES + 1)],
        annotations=annotations,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truths.createIndex()
    return truths, detections


def random_boxes(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes, xywh in pixels, (n, 4), and classes; few classes are frequent, as in COCO."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(300), (number, 2)))
    corners = rng.uniform(0, 1, (number, 2)) * np.maximum([WIDTH, HEIGHT] - sizes, 1)
    return np.concatenate([corners, sizes], 1), 1 + (NUM_CLASSES * rng.random(number) ** 2.5).astype(int)


def ellipse(box: np.ndarray) -> list[float]:
    """Returns the outline of the ellipse in a box, as a polygon of 24 points."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x, y, width, height = box
    return np.stack([x + width * (1 + np.cos(angles)) / 2, y + height * (1 + np.sin(angles)) / 2], 1).ravel().tolist()


def evaluate(kind: type[COCOeval], truths: COCO, detections: list[dict], metric: str) -> tuple[np.ndarray, float]:
    """Returns the table of precisions and the seconds of CPU."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = truths.loadRes([dict(one) for one in detections])
        evaluation = kind(truths, found, metric)
        start = time.process_time()
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval['precision'], time.process_time() - start


if __name__ == '__main__':
    main()
