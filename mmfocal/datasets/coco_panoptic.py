"""COCO's panoptic segments, validated before training starts."""

import os.path as osp
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.api_wrappers import COCOPanoptic
from mmdet.evaluation import CocoPanopticMetric
from mmdet.evaluation.metrics import coco_panoptic_metric
from mmdet.registry import DATASETS, METRICS
from mmengine.fileio import get_local_path

from mmfocal.datasets.coco import CheckedCocoDataset
from mmfocal.datasets.validation.annotations import find_format_issues, read_annotations
from mmfocal.datasets.validation.files import is_local
from mmfocal.datasets.validation.images import find_segment_map_issues
from mmfocal.datasets.validation.issues import Issue, is_id, raise_first_error
from mmfocal.datasets.validation.panoptic import validate_panoptic
from mmfocal.errors import ConfigError, MissingFileError


@DATASETS.register_module()
class CheckedCocoPanopticDataset(CheckedCocoDataset, CocoPanopticDataset):
    """MMDetection's `CocoPanopticDataset`, with one clear message for each issue of its files.

    Args:
        bad_data: `stop` at bad data, or `skip` it in training, as in `StopOrSkip`; an image goes with a bad segment.
        *args, **kwargs: As of `CocoPanopticDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file, or a used image or PNG of segments is missing.
        DataError: If the annotation file has an error (see `validate_panoptic`), or `filter_cfg` leaves no image.
        ConfigError: If panopticapi is not installed, or `metainfo` does not fit the file's categories.
    """

    api = COCOPanoptic

    def __init__(self, *args, **kwargs):
        _require_panopticapi(type(self).__name__)  # which the pipeline needs as well
        super().__init__(*args, **kwargs)

    def validate(self, annotations: Any) -> tuple[list[Issue], dict | None]:
        """Returns the issues of a parsed annotation file, and what is sound of it, normalized."""
        return validate_panoptic(
            annotations,
            self.ann_file,
            self.metainfo,
            test_mode=self.test_mode,
            default_classes=self._has_default_classes,
        )

    def filter_data(self) -> list[dict]:
        """Filters as `CocoPanopticDataset` does, and checks that the files of what is left, and used, exist."""
        super().filter_data()
        self._check_files('seg_map_path')
        return self.data_list

    def _leave_out(self, annotations: dict, errors: list[Issue]) -> dict:
        """Returns what remains of valid annotations; an image goes with a bad segment, since its PNG shows all."""
        bad = {issue.image for issue in errors if issue.entry and issue.entry[0] == 'annotations'}
        return {
            **annotations,
            'images': [image for image in annotations['images'] if image['id'] not in bad],
            'annotations': [one for one in annotations['annotations'] if one['image_id'] not in bad],
        }

    def _file_checks(self, annotations: dict) -> list[Callable[[], list[Issue]]]:
        checks = super()._file_checks(annotations)
        folder = self.data_prefix.get('seg')
        if not folder:
            return checks
        segments = {
            annotation['image_id']: [segment['id'] for segment in annotation['segments_info']]
            for annotation in annotations['annotations']
        }
        for image in annotations['images']:
            path = osp.join(folder, image['file_name'].replace('.jpg', '.png'))
            size, ids = (image['height'], image['width']), segments.get(image['id'])
            checks.append(partial(find_segment_map_issues, path, image['id'], size, ids))
        return checks


@METRICS.register_module()
class CheckedCocoPanopticMetric(CocoPanopticMetric):
    """MMDetection's `CocoPanopticMetric`, over segments that are validated and normalized as the data set's are.

    Categories are matched with the data set's classes by name; segments that training leaves out are ignored.

    Args:
        ann_file: The data set's annotation file. Default: none, segments come with images.
        seg_prefix: The folder of the data set's PNGs. Default: none.
        *args, **kwargs: As of `CocoPanopticMetric`.

    Attributes:
        keep_classes: Whether `compute_metrics` stores the figures of each class in `class_figures`, for reports.

    Raises:
        ConfigError: If panopticapi is not installed.
        MissingFileError: If the file or the folder is missing.
        DataError: If the file has an error (see `validate_panoptic`).
    """

    tmp_dir = None  # MMDetection's __del__ reads it, even if __init__ has failed
    keep_classes = False
    class_figures: list[dict] | None = None

    def __init__(self, ann_file: str | None = None, seg_prefix: str | None = None, *args, **kwargs):
        _require_panopticapi(type(self).__name__)
        for key, what, path, exists in (
            ('ann_file', 'file', ann_file, osp.isfile),
            ('seg_prefix', 'folder', seg_prefix, osp.isdir),
        ):
            if path and is_local(path, kwargs.get('backend_args')) and not exists(path):
                raise MissingFileError(
                    f'{path}: {what} not found; set {key} of val_evaluator and '
                    'test_evaluator to that of val_dataloader and test_dataloader'
                )
        super().__init__(None, seg_prefix, *args, **kwargs)
        self.ann_file = ann_file
        if ann_file:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._content = read_annotations(path, ann_file)
            raise_first_error(find_format_issues(self._content, ann_file, test_mode=True))

    @property
    def image_ids(self) -> set | None:
        """Ids of the images in the annotation file, or None without a file."""
        if not self.ann_file:
            return None
        return {image['id'] for image in self._content['images'] if isinstance(image, dict) and is_id(image.get('id'))}

    @property
    def category_names(self) -> set[str]:
        """Names of the categories in the annotation file."""
        return {str(category.get('name')) for category in self._content['categories'] if isinstance(category, dict)}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collects predictions as `CocoPanopticMetric` does, over the segments of the data set's classes."""
        if self.ann_file and self._coco_api is None:
            issues, annotations = validate_panoptic(self._content, self.ann_file, self.dataset_meta, test_mode=True)
            raise_first_error(issues)
            self._coco_api = COCOPanoptic()
            self._coco_api.dataset = annotations
            self._coco_api.createIndex()
            self._coco_api.img_ann_map = self._coco_api.imgToAnns
            self._coco_api.cat_img_map = self._coco_api.catToImgs
            self.categories = self._coco_api.cats
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes what `CocoPanopticMetric` does, and keeps the figures of each class if asked to."""
        metrics = super().compute_metrics(results)
        if self.keep_classes:
            total = coco_panoptic_metric.PQStat()
            for result in results:
                total += result
            _, figures = total.pq_average(self.categories, isthing=None)
            self.class_figures = [
                dict(
                    name=str(self.categories[number]['name']),
                    kind='thing' if self.categories[number]['isthing'] else 'stuff',
                    **{key.upper(): float(figures[number][key]) for key in ('pq', 'sq', 'rq')},
                    **{key: int(getattr(total[number], key)) for key in ('tp', 'fp', 'fn')},
                )
                for number in figures
            ]
        return metrics


def _require_panopticapi(name: str) -> None:
    if not find_spec('panopticapi'):
        raise ConfigError(
            f'{name} needs panopticapi, which is not on PyPI: '
            'pip install git+https://github.com/cocodataset/panopticapi.git'
        )
