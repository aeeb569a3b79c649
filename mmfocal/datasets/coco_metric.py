"""COCO's average precision over the annotations that training and validation of the data set see."""

import logging
import os.path as osp
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from pycocotools.cocoeval import COCOeval

from mmfocal.datasets.coco_evaluation import CocoEvaluation, choose_backend, list_detections, load_detections
from mmfocal.datasets.validation.annotations import read_annotations, validate_annotations
from mmfocal.datasets.validation.files import is_local
from mmfocal.datasets.validation.issues import raise_first_error
from mmfocal.errors import ConfigError, MissingFileError

AREAS = dict(mAP=0, mAP_s=1, mAP_m=2, mAP_l=3)  # indices of COCO's ranges of areas
THRESHOLDS = dict(mAP_50=0.5, mAP_75=0.75)


@METRICS.register_module()
class CheckedCocoMetric(CocoMetric):
    """MMDetection's `CocoMetric`, over annotations that are validated and normalized as the data set's are.

    Perfect detections have an AP of 1: images, annotations and categories are renumbered for pycocotools, which gives
    other results for annotation ids of 0, and fails for texts; what training ignores or leaves out counts neither for
    nor against a detection; only images that were tested count. Files that `outfile_prefix` names have the ids of the
    annotation file.

    Args:
        ann_file: The data set's annotation file. Default: none, the annotations come with the images.
        *args, **kwargs: As of `CocoMetric`.
        max_dets: Number of detections per image and class that count. Default: COCO's 100.
        eval_backend: 'pycocotools', or 'faster' for faster-coco-eval, which gives equal figures sooner.

    Attributes:
        keep_evaluation: Whether `compute_metrics` stores what it evaluated in `evaluation`, for reports.

    Raises:
        MissingFileError: If the annotation file is missing.
        DataError: If it has an error (see `validate_annotations`).
    """

    keep_evaluation = False
    evaluation: CocoEvaluation | None = None

    def __init__(
        self,
        ann_file: str | None = None,
        *args,
        max_dets: int | None = None,
        eval_backend: str = 'pycocotools',
        **kwargs,
    ):
        if max_dets is not None and (not isinstance(max_dets, int) or max_dets < 1):
            raise ConfigError(f'max_dets={max_dets!r}: write a positive integer')
        super().__init__(None, *args, **kwargs)
        self.ann_file, self.max_dets = ann_file, max_dets
        self.eval_backend = choose_backend(eval_backend)
        self._made: list[COCOeval] = []
        self.proposal_nums[-1] = max(self.proposal_nums[-1], max_dets or 0)
        self.annotations = self._read(ann_file) if ann_file else None
        self._reset_index()

    @property
    def image_ids(self) -> set | None:
        """Ids of the images in the annotation file, or None without a file."""
        return None if self.annotations is None else {image['id'] for image in self.annotations['images']}

    @property
    def category_names(self) -> set[str]:
        """Names of the categories in the annotation file."""
        return {str(category['name']) for category in self.annotations['categories']}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collects predictions as `CocoMetric` does, with the images' paths if the evaluation is kept."""
        first = len(self.results)
        super().process(data_batch, data_samples)
        if self.keep_evaluation:
            for (truth, _), sample in zip(self.results[first:], data_samples):
                truth['img_path'] = sample.get('img_path', '')

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes what `CocoMetric` does, on renumbered images, annotations and categories.

        Args:
            results: Ground truth and prediction of each image.
        """
        truths, predictions = _drop_repeated(results) if self.annotations else zip(*results)
        classes = self.dataset_meta['classes']
        if self.outfile_prefix is not None:
            self.cat_ids = self._original_category_ids(classes)
            self.results2json(predictions, self.outfile_prefix)
            if self.format_only:
                print_log(f'results are saved in {osp.dirname(self.outfile_prefix)}', 'current')
                return {}
        numbers = {truth['img_id']: number for number, truth in enumerate(truths, 1)}
        if self.annotations is None:  # ids may repeat, as in concatenated data sets
            annotations = [entry for number, truth in enumerate(truths, 1) for entry in _entries_of(truth, number)]
        else:
            annotations = self._entries_of_file(numbers, classes)
        self._coco_api = _index(truths, annotations, classes)
        self.cat_ids, self.img_ids = list(range(1, len(classes) + 1)), list(range(1, len(truths) + 1))
        numbered = [
            (truth, {**prediction, 'img_id': number})
            for number, (truth, prediction) in enumerate(zip(truths, predictions), 1)
        ]
        if self.keep_evaluation:
            paths = [truth.get('img_path', '') for truth in truths]
            self.evaluation = CocoEvaluation(list(map(str, classes)), self._coco_api, predictions, paths)
        if not any(len(prediction['scores']) for prediction in predictions):
            print_log('no image has a detection, so AP is 0', 'current', logging.WARNING)
            if self.evaluation:
                for metric in set(self.metrics) & {'bbox', 'segm'}:
                    self.evaluation.tables[metric] = self._evaluate(metric, [], self.proposal_nums)
            self._made = []
            self._reset_index()
            return self._zeros(annotations)
        prefix, self.outfile_prefix = self.outfile_prefix, None
        try:
            with self._evaluating():
                metrics = super().compute_metrics(numbered)
            for metric in set(self.metrics) & {'bbox', 'segm'} if self.max_dets else ():
                metrics.update(self._compute_with_max_dets(metric, [prediction for _, prediction in numbered]))
            tables = self._tables()
            if self.classwise and len(tables) > 1:
                metrics.update(_classwise(tables, classes))
            if self.evaluation:
                self.evaluation.tables.update(tables)
        finally:
            self.outfile_prefix, self._made = prefix, []
            self._reset_index()
        return metrics

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Has `CocoMetric` evaluate with `_make_evaluation`; it has no argument for another class than pycocotools'."""
        found = coco_metric.COCOeval, coco_metric.COCOevalMP
        in_parallel = found[1] if self.eval_backend is COCOeval else self.eval_backend
        coco_metric.COCOeval = self._make_evaluation
        coco_metric.COCOevalMP = partial(self._make_evaluation, kind=in_parallel)
        try:
            yield
        finally:
            coco_metric.COCOeval, coco_metric.COCOevalMP = found

    def _make_evaluation(self, *args, kind: Callable[..., COCOeval] | None = None) -> COCOeval:
        self._made.append((kind or self.eval_backend)(*args))
        return self._made[-1]

    def _tables(self) -> dict[str, COCOeval]:
        """Returns the evaluations by metric, without those of proposals, which have no classes."""
        return {made.params.iouType: made for made in self._made if made.params.useCats}

    def _evaluate(self, metric: str, detections: list[dict], max_dets: list[int]) -> COCOeval:
        """Returns an evaluation of bboxes or masks with its table of precisions."""
        evaluation = self._make_evaluation(self._coco_api, load_detections(self._coco_api, detections), metric)
        evaluation.params.imgIds, evaluation.params.catIds = self.img_ids, self.cat_ids
        evaluation.params.maxDets, evaluation.params.iouThrs = max_dets, self.iou_thrs
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def _reset_index(self) -> None:
        # `process` collects the annotations that come with images if there is no index yet.
        self._coco_api = None if self.annotations is None else COCO()

    def _read(self, ann_file: str) -> dict:
        if is_local(ann_file, self.backend_args) and not osp.isfile(ann_file):
            raise MissingFileError(
                f'{ann_file}: file not found; set ann_file of val_evaluator and test_evaluator to the '
                'annotation files of val_dataloader and test_dataloader'
            )
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            content = read_annotations(path, ann_file)
        issues, annotations = validate_annotations(content, ann_file, test_mode=True, masks='segm' in self.metrics)
        raise_first_error(issues)
        return annotations

    def _original_category_ids(self, classes: Sequence[str]) -> list:
        """Returns the ids that result files have, by label."""
        if self.annotations is None:
            return list(range(len(classes)))
        ids = {str(category['name']): category['id'] for category in self.annotations['categories']}
        return [ids.get(name, label) for label, name in enumerate(map(str, classes))]

    def _entries_of_file(self, numbers: dict[Any, int], classes: Sequence[str]) -> list[dict]:
        """Returns the annotations of tested images, with labels and what training ignores marked as crowds."""
        labels = {name: label for label, name in enumerate(map(str, classes))}
        label_of = {one['id']: labels.get(str(one['name'])) for one in self.annotations['categories']}
        entries = []
        for annotation in self.annotations['annotations']:
            number, label = numbers.get(annotation['image_id']), label_of[annotation['category_id']]
            ignored = annotation.get('ignore', 0)
            if number is None or label is None or ignored and not annotation.get('bbox'):
                continue
            entries.append(
                dict(
                    image_id=number,
                    category_id=label + 1,
                    bbox=annotation['bbox'],
                    area=annotation['area'],
                    iscrowd=int(bool(annotation['iscrowd'] or ignored)),
                    segmentation=annotation.get('segmentation') or _outline(annotation['bbox']),
                )
            )
        return entries

    def _zeros(self, annotations: list[dict]) -> dict[str, float]:
        """Returns the metrics of no detections: 0, or COCO's -1 without annotations."""
        value = 0.0 if any(not annotation['iscrowd'] for annotation in annotations) else -1.0
        items = self.metric_items or [*AREAS, *THRESHOLDS]
        return {f'{metric}_{item}': value for metric in self.metrics if metric in ('bbox', 'segm') for item in items}

    def _compute_with_max_dets(self, metric: str, predictions: Sequence[dict]) -> dict[str, float]:
        """Returns AP with another number of detections than COCO's 100."""
        evaluation = self._evaluate(metric, list_detections(predictions, metric), [self.max_dets])
        precision = evaluation.eval['precision'][..., -1]  # threshold, recall, class, range of areas
        values = {item: _mean(precision[..., index]) for item, index in AREAS.items()}
        for item, threshold in THRESHOLDS.items():
            values[item] = _mean(precision[np.isclose(self.iou_thrs, threshold), ..., 0])
        print_log(f'{metric}_mAP of {self.max_dets} detections per image and class: {values["mAP"]:.3f}', 'current')
        return {f'{metric}_{item}': round(values[item], 3) for item in self.metric_items or values if item in values}


def _drop_repeated(results: list) -> tuple[tuple, tuple]:
    """Returns ground truths and predictions, each image once."""
    return tuple(zip(*{truth['img_id']: (truth, prediction) for truth, prediction in results}.values()))


def _entries_of(truth: dict, number: int) -> list[dict]:
    """Returns the annotations that come with an image."""
    entries = []
    for instance in truth['anns']:
        x0, y0, x1, y1 = instance['bbox']
        box = [x0, y0, x1 - x0, y1 - y0]
        entries.append(
            dict(
                image_id=number,
                category_id=int(instance['bbox_label']) + 1,
                bbox=box,
                area=box[2] * box[3],
                iscrowd=int(instance.get('ignore_flag', 0)),
                segmentation=instance.get('mask') or _outline(box),
            )
        )
    return entries


def _index(truths: Sequence[dict], annotations: list[dict], classes: Sequence[str]) -> COCO:
    """Returns annotations as pycocotools has them, with ids from 1."""
    coco = COCO()
    coco.dataset = dict(
        images=[
            dict(id=number, height=truth['height'], width=truth['width']) for number, truth in enumerate(truths, 1)
        ],
        categories=[dict(id=number, name=name) for number, name in enumerate(classes, 1)],
        annotations=[{**annotation, 'id': number} for number, annotation in enumerate(annotations, 1)],
    )
    coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def _classwise(tables: dict[str, COCOeval], classes: Sequence[str]) -> dict[str, float]:
    """Returns the AP of each class by metric; MMDetection's `NAME_precision` is that of the last metric only."""
    return {
        f'{metric}_{name}_precision': round(_mean(table.eval['precision'][:, :, label, 0, -1]), 3)
        for metric, table in tables.items()
        for label, name in enumerate(classes)
    }


def _outline(box: Sequence[float]) -> list[list[float]]:
    """Returns a box as a polygon, for annotations without a mask."""
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _mean(precision: np.ndarray) -> float:
    """Returns the mean of a table of precisions, without the -1 of classes that have no annotation."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0
