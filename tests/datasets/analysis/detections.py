"""Generated annotations and detections, as `CheckedCocoMetric` keeps them."""

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as mask_utils

from mmfocal.datasets.coco_evaluation import CocoEvaluation

HEIGHT, WIDTH = 90, 120


def box_mask(box):
    """The RLE of a box in pixels, xywh."""
    x, y, width, height = box
    return mask_utils.merge(
        mask_utils.frPyObjects([[x, y, x + width, y, x + width, y + height, x, y + height]], HEIGHT, WIDTH)
    )


def make_evaluation(images, num_classes):
    """Makes an evaluation.

    Args:
        images: For each image its annotations (label, xywh, crowd) and detections (label, xywh, score).
        num_classes: Number of classes.
    """
    truths, annotations, predictions = COCO(), [], []
    for number, (entries, found) in enumerate(images, 1):
        for label, box, crowd in entries:
            x, y, width, height = box
            outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=label + 1,
                    bbox=list(box),
                    area=width * height,
                    iscrowd=int(crowd),
                    segmentation=outline,
                )
            )
        boxes = np.array([box for _, box, _ in found], float).reshape(-1, 4)
        predictions.append(
            dict(
                img_id=number,
                labels=np.array([label for label, _, _ in found], int),
                bboxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                scores=np.array([score for _, _, score in found], float),
                masks=[box_mask(box) for box in boxes],
            )
        )
    truths.dataset = dict(
        images=[dict(id=number, height=HEIGHT, width=WIDTH) for number in range(1, len(images) + 1)],
        categories=[dict(id=label + 1, name=f'class {label}') for label in range(num_classes)],
        annotations=annotations,
    )
    truths.createIndex()
    names = [f'class {label}' for label in range(num_classes)]
    return CocoEvaluation(names, truths, predictions, [''] * len(images))


def random_images(seed, num_images=20, num_classes=3, most=6, most_found=20, crowds=0.0, decimals=9):
    """Annotations and detections near them, with wrong classes, wrong places, duplicates and background."""
    rng = np.random.default_rng(seed)

    def any_box():
        return [*rng.uniform(0, 60, 2), *rng.uniform(3, 28, 2)]

    images = []
    for _ in range(num_images):
        entries = [
            (int(rng.integers(num_classes)), any_box(), bool(rng.random() < crowds))
            for _ in range(rng.integers(most + 1))
        ]
        found = []
        for _ in range(rng.integers(most_found + 1)):
            label, box = int(rng.integers(num_classes)), any_box()
            if entries and rng.random() < 0.75:
                label, near, _ = entries[rng.integers(len(entries))]
                box = np.maximum(np.array(near) + rng.normal(0, 2, 4), 1).tolist()
                label = label if rng.random() < 0.8 else int(rng.integers(num_classes))
            found.append((label, box, round(float(rng.random()), decimals)))
        images.append((entries, found))
    return images
