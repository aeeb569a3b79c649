"""Renders the report of a test as an HTML page of one file, which needs no network."""

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmfocal.datasets.analysis.classification import ClassificationAnalysis
from mmfocal.datasets.analysis.detection import IOU_THR, DetectionAnalysis
from mmfocal.datasets.analysis.segmentation import SegmentationAnalysis
from mmfocal.datasets.analysis.tide import BACKGROUND_IOU, FOREGROUND_IOU, KINDS, SPECIAL
from mmfocal.visualization.pages import make_environment
from mmfocal.visualization.reports.plots import DRAWN, curve_points, list_confusions, plot_confusion, plot_curves

FIGURES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
DEFINITIONS = {
    'classification': f'IoU of {FOREGROUND_IOU} or more with an object of another class',
    'localization': f'right class, IoU from {BACKGROUND_IOU} to {FOREGROUND_IOU}',
    'both': f'wrong class, IoU from {BACKGROUND_IOU} to {FOREGROUND_IOU}',
    'duplicate': 'the object has a match with a higher score',
    'background': f'no object with an IoU above {BACKGROUND_IOU}',
    'missed': 'no detection matches, nor would if its class or place were corrected',
    'false positives': 'all wrong detections removed',
    'false negatives': 'all objects without a match removed',
}


def render(head: dict[str, Any], parts: dict[str, Any], pictures: dict[str, list]) -> str:
    """Renders a report; everything that comes from a file is escaped.

    Args:
        head: `config`, `checkpoint`, `made`, the number of `images` and the `metrics` of the test.
        parts: Title → a `DetectionAnalysis`, `SegmentationAnalysis` or `ClassificationAnalysis`, or the classes of
            panoptic segmentation.
        pictures: Title → the worst images.
    """
    environment = make_environment(Path(__file__).parent)
    environment.filters.update(percent=_percent)
    detection = {title: part for title, part in parts.items() if isinstance(part, DetectionAnalysis)}
    segmentation = {title: part for title, part in parts.items() if isinstance(part, SegmentationAnalysis)}
    classification = {title: part for title, part in parts.items() if isinstance(part, ClassificationAnalysis)}
    others = {**detection, **segmentation, **classification}
    panoptic = {title: part for title, part in parts.items() if title not in others}
    return environment.get_template('report.html.j2').render(
        head=head,
        title=f'{Path(head["config"]).stem}, {Path(head["checkpoint"]).name}',
        detection={title: _detection(part) for title, part in detection.items()},
        segmentation={title: _confused(part, 'pixels') for title, part in segmentation.items()},
        classification={title: _confused(part, 'images', DRAWN) for title, part in classification.items()},
        drawn=DRAWN,
        panoptic=panoptic,
        pictures=pictures,
        figures=FIGURES,
        iou_thr=IOU_THR,
    )


def _detection(analysis: DetectionAnalysis) -> dict[str, Any]:
    names = [one['name'] for one in analysis.classes]
    means = {iou: of['mean'] for iou, of in analysis.curves.items() if of['mean']}
    curves = [
        dict(
            name=one['name'],
            points={
                iou: curve_points(of['classes'][one['name']])
                for iou, of in analysis.curves.items()
                if of['classes'][one['name']]
            },
            AP50=one['AP50'],
            AP75=one['AP75'],
        )
        for one in analysis.classes
        if one['annotations']
    ]
    errors = analysis.errors
    rows = [dict(name=kind, count=errors.counts[kind], gain=errors.gains[kind]) for kind in KINDS]
    rows += [dict(name=kind, count=None, gain=errors.special[kind]) for kind in SPECIAL]
    largest = max([row['gain'] for row in rows] + [1e-9])
    for row in rows:
        row.update(definition=DEFINITIONS[row['name']], width=100 * max(row['gain'], 0) / largest)
    return dict(
        analysis=analysis,
        plot=Markup(plot_curves(means)) if means else '',
        curves=curves,
        errors=rows,
        confusion=plot_confusion(analysis.confusion, names, True, 'objects'),
        confusions=list_confusions(analysis.confusion, names),
    )


def _confused(
    analysis: SegmentationAnalysis | ClassificationAnalysis, unit: str, most: float = math.inf
) -> dict[str, Any]:
    """Returns an analysis with its confusion matrix of `unit`, drawn for at most so many classes."""
    names = [one['name'] for one in analysis.classes]
    return dict(
        analysis=analysis,
        confusion=plot_confusion(analysis.confusion, names, False, unit) if len(names) <= most else None,
        confusions=list_confusions(analysis.confusion, names),
    )


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.1f}'
