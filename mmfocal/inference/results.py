"""What a model predicts for an image, as NumPy arrays."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfocal.errors import ConfigError

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Segment:
    """A segment of a panoptic prediction.

    Args:
        id: Its value in `Prediction.panoptic`, from 1.
        label: Index of its class.
        name: Name of its class.
        is_thing: Whether it is one object, rather than stuff such as sky.
        area: Pixels.
    """

    id: int
    label: int
    name: str
    is_thing: bool
    area: int


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for an image, in pixels of the image as it was passed.

    Args:
        size: Height and width of the image.
        classes: Names of all classes.
        boxes: (N, 4), float32, xyxy. No boxes if the model predicts label maps, or panoptic segments alone.
        scores: (N,), float32, descending. Of a classifier, those of all classes.
        labels: (N,), int64, indices into `classes`. Of a classifier, all classes, the most probable first.
        masks: (N, H, W), bool, of models with masks, else None.
        label_map: (H, W), class indices, of semantic segmentation, else None.
        panoptic: (H, W), int32, ids of segments, 0 where there is none, of panoptic segmentation, else None.
        segments: The segments in `panoptic`.
        is_classification: Whether scores and labels are of the whole image.
    """

    size: tuple[int, int]
    classes: tuple[str, ...]
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None
    panoptic: np.ndarray | None = None
    segments: tuple[Segment, ...] = ()
    is_classification: bool = False

    @property
    def names(self) -> list[str]:
        """Names of `labels`: of the boxes' classes, or of all classes, the most probable first."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def to_supervision(self) -> 'supervision.Detections':
        """Returns the boxes and masks, or else the panoptic segments, as `supervision.Detections`.

        Raises:
            ConfigError: If the package supervision is not installed, or the model predicts label maps or classes of
                images.
        """
        try:
            import supervision
        except ImportError as error:
            raise ConfigError('supervision: package not installed; pip install mmfocal[supervision]') from error
        if self.is_classification:
            raise ConfigError('to_supervision: a classifier has no detections; use names and scores')
        if self.label_map is not None:
            raise ConfigError('to_supervision: a label map has no detections; use label_map')
        if not len(self) and self.segments and self.panoptic is not None:
            masks = self.panoptic == np.array([segment.id for segment in self.segments])[:, None, None]
            return supervision.Detections(
                xyxy=np.array([mask_to_box(mask) for mask in masks], np.float32),
                mask=masks,
                class_id=np.array([segment.label for segment in self.segments]),
                data=dict(class_name=np.array([segment.name for segment in self.segments])),
            )
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data=dict(class_name=np.array(self.names, dtype=str)),
        )


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the box around a mask (H, W) that has pixels, xyxy."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def to_prediction(sample: Any, meta: dict[str, Any], score_thr: float) -> Prediction:
    """Converts the output of MMDetection's, MMPretrain's or MMSegmentation's `test_step` for an image.

    Args:
        sample: A `DetDataSample`, `SegDataSample` or MMPretrain's `DataSample`.
        meta: The model's `dataset_meta`.
        score_thr: Lowest score of boxes that are kept.
    """
    size, classes = tuple(map(int, sample.ori_shape[:2])), tuple(meta['classes'])
    found: dict[str, Any] = {}
    if 'pred_instances' in sample:
        instances = sample.pred_instances
        instances = instances[instances.scores >= score_thr]
        order = instances.scores.argsort(descending=True, stable=True)
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        found = dict(
            boxes=boxes[order].cpu().numpy().astype(np.float32).reshape(-1, 4),
            scores=instances.scores[order].cpu().numpy().astype(np.float32),
            labels=instances.labels[order].cpu().numpy().astype(np.int64),
        )
        if 'masks' in instances:
            found['masks'] = instances.masks[order].cpu().numpy().astype(bool).reshape(-1, *size)
    if 'pred_score' in sample:
        scores = sample.pred_score.cpu().numpy().astype(np.float32)
        labels = np.argsort(-scores, kind='stable')
        found = dict(scores=scores[labels], labels=labels, is_classification=True)
    if 'pred_panoptic_seg' in sample:
        ids = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
        found['panoptic'], found['segments'] = _to_segments(ids, classes, meta)
    if 'pred_sem_seg' in sample:
        label_map = sample.pred_sem_seg.data[0].cpu().numpy()
        found['label_map'] = label_map.astype(np.uint8 if len(classes) <= 256 else np.uint16)
    return Prediction(size, classes, **found)


def _to_segments(
    values: np.ndarray, classes: tuple[str, ...], meta: dict[str, Any]
) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """Numbers the segments of MMDetection's map, whose values are label + INSTANCE_OFFSET * instance."""
    from mmdet.evaluation import INSTANCE_OFFSET

    things = set(meta.get('thing_classes') or ())
    panoptic, segments = np.zeros(values.shape, np.int32), []
    for value, area in zip(*np.unique(values, return_counts=True)):
        label = int(value) % INSTANCE_OFFSET
        if label >= len(classes):  # no class
            continue
        name = classes[label]
        is_thing = name in things if things else value >= INSTANCE_OFFSET
        segments.append(Segment(len(segments) + 1, label, name, bool(is_thing), int(area)))
        panoptic[values == value] = segments[-1].id
    return panoptic, tuple(segments)
