"""Pictures of a report: ground truth beside prediction, as JPEG in a data URI."""

import tempfile
import warnings
from base64 import b64encode
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.fileio import get
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.visualization import Visualizer
from pycocotools import mask as mask_utils

from mmfocal.datasets.analysis.segmentation import ImageIoU
from mmfocal.datasets.coco_evaluation import CocoEvaluation, scores_of

SIDE = 440  # pixels of the longer side of each half, and of a classifier's images
GAP = 6  # pixels between the halves
QUALITY = 82


def draw_detections(
    visualizer: Visualizer,
    evaluation: CocoEvaluation,
    number: int,
    metric: str,
    score_thr: float,
    backend_args: dict | None = None,
) -> str | None:
    """Draws the annotations of an image beside its detections, with MMDetection's visualizer.

    Args:
        visualizer: With the data set's classes and colours.
        evaluation: With annotations and predictions.
        number: Of the image, from 0.
        metric: 'bbox', or 'segm' for masks as well.
        score_thr: Lowest score of a detection.
        backend_args: Arguments of MMEngine's file backend for images.

    Returns:
        A data URI, or None if OpenCV cannot decode the image.
    """
    from mmdet.structures import DetDataSample

    image = _read(evaluation.image_paths[number], backend_args)
    if image is None:
        return None
    prediction = evaluation.predictions[number]
    scores = np.asarray(scores_of(prediction, metric))
    chosen = np.flatnonzero(scores >= score_thr)
    entries = [entry for entry in evaluation.truths.imgToAnns.get(number + 1, []) if not entry['iscrowd']]
    boxes = np.array([entry['bbox'] for entry in entries], np.float32).reshape(-1, 4)
    truth = dict(
        bboxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        labels=np.array([entry['category_id'] - 1 for entry in entries], int),
    )
    found = dict(bboxes=prediction['bboxes'][chosen], labels=prediction['labels'][chosen], scores=scores[chosen])
    if metric == 'segm':
        truth['masks'] = [evaluation.truths.annToRLE(entry) for entry in entries]
        found['masks'] = [prediction['masks'][index] for index in chosen]
    image, scale = _resized(image)
    sample = DetDataSample(
        gt_instances=_instances(truth, scale, image.shape[:2]),
        pred_instances=_instances(found, scale, image.shape[:2]),
    )
    return _draw(visualizer, image, sample, pred_score_thr=0.0)


def draw_label_maps(visualizer: Visualizer, image: ImageIoU, backend_args: dict | None = None) -> str | None:
    """Draws the label map of an image beside the predicted one, with MMSegmentation's visualizer.

    Args:
        visualizer: With the data set's classes and colours.
        image: With label maps.
        backend_args: Arguments of MMEngine's file backend for images.

    Returns:
        A data URI, or None if OpenCV cannot decode the image.
    """
    from mmseg.structures import SegDataSample

    pixels = _read(image.path, backend_args)
    if pixels is None:
        return None
    pixels, _ = _resized(pixels)
    maps = {}
    for name, content in (('gt_sem_seg', image.label_map), ('pred_sem_seg', image.prediction)):
        labels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).astype(np.int32)
        labels = cv2.resize(labels.astype(np.uint16), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        maps[name] = PixelData(data=torch.from_numpy(labels.astype(np.int64))[None])
    return _draw(visualizer, pixels, SegDataSample(**maps))


def draw_image(path: str, backend_args: dict | None = None) -> str | None:
    """Returns an image as a data URI, or None if OpenCV cannot decode it.

    Args:
        path: Its file.
        backend_args: Arguments of MMEngine's file backend for images.
    """
    image = _read(path, backend_args)
    return None if image is None else _to_uri(_resized(image)[0][..., ::-1])


def _read(path: str, backend_args: dict | None) -> np.ndarray | None:
    content = get(path, backend_args=backend_args)
    image = mmcv.imfrombytes(content) if content else None
    return None if image is None else np.ascontiguousarray(image[..., ::-1])  # RGB


def _resized(image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns an image of the pictures' size, and its scale in x and y."""
    height, width = image.shape[:2]
    factor = SIDE / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return resized, (size[0] / width, size[1] / height)


def _instances(arrays: dict, scale: tuple[float, float], size: tuple[int, int]) -> InstanceData:
    """Returns boxes and masks in pixels of the resized image."""
    instances = InstanceData(
        bboxes=torch.from_numpy(arrays['bboxes'].astype(np.float32) * np.float32([*scale, *scale])),
        labels=torch.from_numpy(arrays['labels'].astype(np.int64)),
    )
    if 'scores' in arrays:
        instances.scores = torch.from_numpy(arrays['scores'].astype(np.float32))
    if 'masks' in arrays:
        masks = [mask_utils.decode(one) for one in arrays['masks']]
        masks = [cv2.resize(one, size[::-1], interpolation=cv2.INTER_NEAREST) for one in masks]
        instances.masks = np.array(masks, bool).reshape(-1, *size)
    return instances


def _draw(visualizer: Visualizer, image: np.ndarray, sample: BaseDataElement, **options: float) -> str:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Warning: The (bbox|polygon) is out of bounds')
        path = Path(folder, 'picture.png')
        visualizer.add_datasample('report', image, data_sample=sample, out_file=str(path), **options)
        drawn = cv2.imread(str(path))
    halves = np.split(drawn, 2, axis=1)
    drawn = np.concatenate([halves[0], np.full((len(drawn), GAP, 3), 255, np.uint8), halves[1]], 1)
    return _to_uri(drawn)


def _to_uri(pixels: np.ndarray) -> str:
    content = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f'data:image/jpeg;base64,{b64encode(content).decode()}'
