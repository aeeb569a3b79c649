"""The report of a test: figures that the evaluator keeps, as a page and as JSON."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.fileio import exists
from mmengine.runner import Runner

from mmfocal.datasets.analysis.classification import ClassificationAnalysis, ClassificationMetric
from mmfocal.datasets.analysis.detection import IOU_THR, DetectionAnalysis, analyse_detections
from mmfocal.datasets.analysis.segmentation import ConfusionMetric, SegmentationAnalysis
from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically
from mmfocal.visualization.pictures import find_image_root, relative_name
from mmfocal.visualization.reports.page import render
from mmfocal.visualization.reports.pictures import draw_detections, draw_image, draw_label_maps

NUM_WORST = 20
METRICS = {'bbox': 'Boxes', 'segm': 'Masks'}
KINDS = 'CheckedCocoMetric, CheckedIoUMetric, CheckedCocoPanopticMetric or Accuracy'

Metric = TypeVar('Metric', bound=BaseMetric)


@dataclass
class Picture:
    """One of the worst images: its name, what is wrong in it and, if its file can be read, the picture."""

    name: str
    text: str
    source: str | None


class TestReport:
    """Makes the evaluator keep what a report needs, and writes the report after the test.

    Args:
        runner: Before its test.
        folder: Gets `report.html` and `report.json`.
        config: Name of the config.
        checkpoint: Name of the checkpoint.
        score_thr: Lowest score of detections in confusion matrices and pictures.

    Raises:
        ConfigError: If the evaluator has no metric that a report can be made of, or the folder cannot be made.
    """

    __test__ = False  # it is no test of pytest

    def __init__(self, runner: Runner, folder: str, config: str, checkpoint: str, score_thr: float = 0.3):
        self.runner, self.folder, self.score_thr = runner, Path(folder), score_thr
        self.config, self.checkpoint = config, checkpoint
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f'--report {folder}: cannot make the folder: {error.strerror}') from error
        self.detection, self.panoptic, self.confusion, self.classification = None, None, None, None
        for metric in list(runner.test_evaluator.metrics):
            kinds = {kind.__name__ for kind in type(metric).__mro__}
            if getattr(metric, 'format_only', False):
                raise ConfigError('test_evaluator.format_only: --report needs annotations; set it to False')
            if 'CheckedCocoMetric' in kinds and {'bbox', 'segm'} & set(metric.metrics):
                metric.keep_evaluation, self.detection = True, metric
            elif 'CheckedCocoPanopticMetric' in kinds:
                if metric.tmp_dir is None:  # then the matches of images are not among its results
                    raise ConfigError('test_evaluator.outfile_prefix: --report needs it unset; remove it')
                metric.keep_classes, self.panoptic = True, metric
            elif 'IoUMetric' in kinds:
                self.confusion = self._add(ConfusionMetric(metric.ignore_index, NUM_WORST), metric)
            elif 'Accuracy' in kinds and not self.classification:
                self.classification = self._add(ClassificationMetric(), metric)
        if not (self.detection or self.panoptic or self.confusion or self.classification):
            raise ConfigError(f'{config}: --report needs a test_evaluator of the type {KINDS}; set one')

    def write(self, metrics: dict[str, float]) -> None:
        """Writes the report, in the main process.

        Args:
            metrics: What the test returned.

        Raises:
            SavingError: If a file cannot be written.
        """
        if not is_main_process():
            return
        parts: dict[str, Any] = {}
        if self.detection:
            evaluation = self.detection.evaluation
            for metric, title in METRICS.items():
                if metric in evaluation.tables:
                    parts[title] = analyse_detections(evaluation, metric, self.score_thr)
        if self.confusion:
            parts['Segmentation'] = self.confusion.analysis
        if self.panoptic:
            parts['Panoptic segmentation'] = self.panoptic.class_figures
        if self.classification:
            parts['Classification'] = self.classification.analysis
        head = dict(
            config=self.config,
            checkpoint=self.checkpoint,
            made=time.strftime('%Y-%m-%d %H:%M %Z'),
            images=len(self.runner.test_dataloader.dataset),
            metrics=metrics,
        )
        write_atomically(self.folder / 'report.json', to_json(head, parts))
        pictures = {
            title: self._draw_detections(parts[title], metric) for metric, title in METRICS.items() if title in parts
        }
        if self.confusion:
            pictures['Segmentation'] = self._draw_label_maps(self.confusion.analysis)
        if self.classification:
            pictures['Classification'] = self._draw_mistakes(self.classification.analysis)
        write_atomically(self.folder / 'report.html', render(head, parts, pictures))
        print(self.folder / 'report.html')
        print(self.folder / 'report.json')

    def _add(self, added: Metric, metric: BaseMetric) -> Metric:
        """Adds a metric of the same data set as another."""
        added.dataset_meta = metric.dataset_meta
        self.runner.test_evaluator.metrics.append(added)
        return added

    def _draw_detections(self, analysis: DetectionAnalysis, metric: str) -> list[Picture]:
        pictures = []
        for image in analysis.images[:NUM_WORST]:
            if not image.wrong and not image.missed:
                break
            kinds = [f'{count} {name}' for name, count in image.kinds.items()]
            text = ', '.join([f'{image.correct} right', *kinds, f'{image.missed} not found'])
            source = None
            if image.path and exists(image.path, self._backend_args):
                source = draw_detections(
                    self.runner.visualizer, self.detection.evaluation, image.number, metric, self.score_thr,
                    self._backend_args,
                )  # fmt: skip
            pictures.append(Picture(self._name(image.path or f'image {image.number}'), text, source))
        return pictures

    def _draw_label_maps(self, analysis: SegmentationAnalysis) -> list[Picture]:
        return [
            Picture(
                self._name(image.path),
                f'mIoU {100 * image.iou:.1f}',
                draw_label_maps(self.runner.visualizer, image, self._backend_args)
                if exists(image.path, self._backend_args)
                else None,
            )
            for image in analysis.images[:NUM_WORST]
            if image.label_map and not math.isnan(image.iou) and image.iou < 1
        ]

    def _draw_mistakes(self, analysis: ClassificationAnalysis) -> list[Picture]:
        names = [one['name'] for one in analysis.classes]
        return [
            Picture(
                self._name(image.path or f'image {image.number}'),
                f'{names[image.label]} {image.label_score:.2f}, taken for {names[image.predicted]} {image.score:.2f}',
                draw_image(image.path, self._backend_args)
                if image.path and exists(image.path, self._backend_args)
                else None,
            )
            for image in analysis.mistakes[:NUM_WORST]
        ]

    def _name(self, path: str) -> str:
        return relative_name(path, find_image_root(iterate_inner(self.runner.test_dataloader.dataset)))

    @property
    def _backend_args(self) -> dict | None:
        datasets = iterate_inner(self.runner.test_dataloader.dataset)
        return next((one.backend_args for one in datasets if getattr(one, 'backend_args', None)), None)


def to_json(head: dict, parts: dict[str, Any]) -> str:
    """Returns all figures as JSON; what cannot be computed is null."""
    report = dict(head)
    for title, analysis in parts.items():
        key = title.lower().replace(' ', '_')
        if isinstance(analysis, DetectionAnalysis):
            report[key] = dict(
                overall=analysis.overall,
                classes=analysis.classes,
                precision_recall=analysis.curves,
                errors=asdict(analysis.errors),
                iou_thr=IOU_THR,
                score_thr=analysis.score_thr,
                confusion=analysis.confusion.tolist(),
                worst_images=[
                    dict(path=one.path, f1=one.f1, correct=one.correct, wrong=one.kinds, missed=one.missed)
                    for one in analysis.images[:NUM_WORST]
                ],
            )
        elif isinstance(analysis, SegmentationAnalysis):
            report[key] = dict(
                overall=analysis.overall,
                classes=analysis.classes,
                confusion=analysis.confusion.tolist(),
                worst_images=[dict(path=one.path, mIoU=one.iou) for one in analysis.images[:NUM_WORST]],
            )
        elif isinstance(analysis, ClassificationAnalysis):
            names = [one['name'] for one in analysis.classes]
            report[key] = dict(
                overall=analysis.overall,
                classes=analysis.classes,
                confusion=analysis.confusion.tolist(),
                worst_images=[
                    dict(
                        path=one.path,
                        label=names[one.label],
                        label_score=one.label_score,
                        predicted=names[one.predicted],
                        score=one.score,
                        loss=one.loss,
                    )
                    for one in analysis.mistakes[:NUM_WORST]
                ],
            )
        else:
            report[key] = dict(classes=analysis)
    return json.dumps(_finite(report), indent=1, ensure_ascii=False) + '\n'


def _finite(value: Any) -> Any:
    """Returns a value whose numbers are JSON's: NaN, which JSON lacks, becomes None."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if hasattr(value, 'item'):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
