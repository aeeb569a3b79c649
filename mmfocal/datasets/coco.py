"""COCO-format data that is validated before training starts."""

import os.path as osp
from collections.abc import Callable
from functools import partial
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS

from mmfocal.datasets.bad_data import StopOrSkip
from mmfocal.datasets.palettes import make_palette
from mmfocal.datasets.validation.annotations import check_images_exist, read_annotations, validate_annotations
from mmfocal.datasets.validation.files import check_exists, find_missing, is_local
from mmfocal.datasets.validation.images import find_image_issues
from mmfocal.datasets.validation.issues import Issue, errors_of
from mmfocal.errors import DataError, MissingFileError


@DATASETS.register_module()
class CheckedCocoDataset(StopOrSkip, CocoDataset):
    """MMDetection's `CocoDataset`, with one clear message for each issue of its files.

    Labels are the indices of `metainfo.classes`, matched with the file's categories by name. The file is parsed once.
    Files that a remote backend serves (`backend_args`, URLs) are not looked for.

    Args:
        bad_data: `stop` at bad data, or `skip` it in training, as in `StopOrSkip`.
        *args, **kwargs: As of `CocoDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file or a used image is missing.
        DataError: If the annotation file has an error (see `validate_annotations`), `filter_cfg` leaves no image, or an
            image is damaged or has another size than recorded.
        ConfigError: If `metainfo.classes` do not fit the file's categories.
    """

    api = COCO

    def load_data_list(self) -> list[dict]:
        """Loads the annotations as `CocoDataset` does, after checking that their file exists."""
        if is_local(self.ann_file, self.backend_args):
            check_exists(self.ann_file, self.data_root, 'ann_file')
        return super().load_data_list()

    def COCOAPI(self, local_path: str) -> COCO:
        """Reads the annotations when `CocoDataset` does, and validates them between parsing and indexing."""
        issues, annotations = self.validate(read_annotations(local_path, self.ann_file))
        self._report(issues, self.ann_file)
        annotations = self._leave_out(annotations, errors_of(issues))
        if not annotations['images']:
            raise DataError(f'{errors_of(issues)[0].message} (and no valid image remains)')
        coco = self.api()
        coco.dataset = annotations
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def validate(self, annotations: Any) -> tuple[list[Issue], dict | None]:
        """Returns the issues of a parsed annotation file, and what is sound of it, normalized."""
        return validate_annotations(
            annotations,
            self.ann_file,
            self.metainfo['classes'],
            test_mode=self.test_mode,
            masks=any(getattr(transform, 'with_mask', False) for transform in self.pipeline.transforms),
            urls=not self.data_prefix.get('img'),
            default_classes=self._has_default_classes,
        )

    def find_issues(self) -> tuple[list[Issue], list[Callable[[], list[Issue]]]]:
        """Returns the issues of the annotations, and checks of the files, for `tools/check_dataset.py`.

        The data set need not be loaded. Checks can be sent to another process; their first argument is a path.
        """
        try:
            if not is_local(self.ann_file, self.backend_args):
                raise DataError(f'{self.ann_file}: is not on this machine; fetch the data set to check it')
            check_exists(self.ann_file, self.data_root, 'ann_file')
            issues, annotations = self.validate(read_annotations(self.ann_file, self.ann_file))
        except (DataError, MissingFileError) as error:
            return [Issue('annotation file', str(error), self.ann_file)], []
        return issues, [] if annotations is None else self._file_checks(annotations)

    def filter_data(self) -> list[dict]:
        """Filters as `CocoDataset` does, and checks that the images that are left, and used, exist."""
        self.data_list = super().filter_data()
        if not self.data_list:
            raise DataError(
                f'{self.ann_file}: filter_cfg={self.filter_cfg} leaves none of its images; '
                'loosen it, or correct metainfo.classes'
            )
        self._check_files('img_path')
        return self.data_list

    @classmethod
    def _load_metainfo(cls, metainfo: dict | None = None) -> dict:
        """Reads class names as texts, and adds colours if there are more classes than colours."""
        loaded = super()._load_metainfo(metainfo)
        classes = loaded.get('classes', ())
        if not isinstance(classes, str):
            loaded['classes'] = tuple(map(str, classes))
            if 0 < len(loaded.get('palette') or ()) < len(loaded['classes']):
                loaded['palette'] = make_palette(len(loaded['classes']), loaded['palette'])
        return loaded

    @property
    def _has_default_classes(self) -> bool:
        return tuple(self.metainfo['classes']) == tuple(self.METAINFO['classes'])

    def _leave_out(self, annotations: dict, errors: list[Issue]) -> dict:
        """Returns what remains of valid annotations; an image stays without its bad ones."""
        return annotations

    def _file_checks(self, annotations: dict) -> list[Callable[[], list[Issue]]]:
        return [
            partial(
                find_image_issues,
                osp.join(self.data_prefix['img'] or '', image['file_name']),
                image['id'],
                (image['height'], image['width']),
                self.color_type,
            )
            for image in annotations['images']
        ]

    def _check_files(self, key: str) -> None:
        """Refuses missing images, or leaves them out."""
        used = self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)
        paths = [data_info[key] for data_info in used if data_info[key]]
        if not paths or not self._reads_locally(paths[0]):
            return
        missing = find_missing(paths) if self.skips_bad_data else []
        if len(missing) in (0, len(paths)):
            check_images_exist(paths, self.ann_file)
        elif self._indices is None:  # else other images would take those places; loading will skip them
            bad = {paths[index] for index in missing}
            self._report(
                [
                    Issue('missing file', f'{paths[index]}: not found', self.ann_file, entry=('images', index))
                    for index in missing
                ],
                self.ann_file,
            )
            self.data_list = [data_info for data_info in self.data_list if data_info[key] not in bad]
