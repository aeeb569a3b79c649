"""COCO's average precision over annotations that are validated before training starts."""

import os.path as osp

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from mmfocal.datasets.validation.annotations import read_annotations, validate_annotations
from mmfocal.datasets.validation.files import is_local
from mmfocal.datasets.validation.issues import raise_first_error
from mmfocal.errors import MissingFileError


@METRICS.register_module()
class CheckedCocoMetric(CocoMetric):
    """MMDetection's `CocoMetric`, over annotations that are validated as the data set's are.

    Args:
        ann_file: The data set's annotation file. Default: none, the annotations come with the images.
        *args, **kwargs: As of `CocoMetric`.

    Raises:
        MissingFileError: If the annotation file is missing.
        DataError: If it has an error (see `validate_annotations`).
    """

    def __init__(self, ann_file: str | None = None, *args, **kwargs):
        if ann_file and is_local(ann_file, kwargs.get('backend_args')):
            if not osp.isfile(ann_file):
                raise MissingFileError(
                    f'{ann_file}: file not found; set ann_file of val_evaluator and test_evaluator to the '
                    'annotation files of val_dataloader and test_dataloader'
                )
            raise_first_error(validate_annotations(read_annotations(ann_file, ann_file), ann_file, test_mode=True)[0])
        super().__init__(ann_file, *args, **kwargs)
