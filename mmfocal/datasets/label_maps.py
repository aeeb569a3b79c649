"""Images with label maps that are checked before training starts."""

import logging
import os.path as osp

from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset
from mmseg.registry import DATASETS

from mmfocal.datasets.validation import label_maps as label_map_checks
from mmfocal.datasets.validation import report as check
from mmfocal.datasets.validation.issues import StopOrSkip
from mmfocal.errors import ConfigError, DataError, MissingFileError


class CheckedLabelMaps(StopOrSkip):
    """What the data sets below share: one clear sentence for each fault of their folders and classes.

    `LoadCheckedAnnotations` checks the label maps themselves. Nothing is looked for in folders that a remote
    backend serves (`backend_args`, URLs).

    Args:
        bad_data (str): `stop` at bad data, or `skip` it in training, as in `StopOrSkip`. Default: `stop`.

    Raises:
        MissingFileError: If the data root, a folder of it, an image or a label map is absent.
        DataError: If there is no image, or one cannot be decoded.
        ConfigError: If there are no class names, unknown ones, or not a colour for each, or no folder of
            label maps to train with.
    """

    @classmethod
    def get_label_map(cls, new_classes=None):
        """Numbers the classes as MMSegmentation does, which calls this first of all."""
        if not new_classes or isinstance(new_classes, str):
            raise ConfigError(
                f'metainfo.classes={new_classes!r}: {cls.__name__} needs the names of its '
                "classes, in the order of the label maps' values; write "
                "metainfo=dict(classes=('background', ...))"
            )
        known = cls.METAINFO.get('classes', new_classes)
        unknown = [name for name in new_classes if name not in known]
        if unknown:
            raise ConfigError(
                f'metainfo.classes: {unknown[0]!r} ({len(unknown)} of {len(new_classes)}) is '
                f"not a class of {cls.__name__}; correct it, or set type='LabelMapDataset' for "
                'classes of your own'
            )
        return super().get_label_map(new_classes)

    def _update_palette(self):
        colours, classes = self._metainfo.get('palette', []), self._metainfo['classes']
        if self.label_map is None and len(colours) not in (0, len(classes)):
            raise ConfigError(
                f'metainfo.palette has {len(colours)} colours for {len(classes)} classes; '
                'write one [red, green, blue] a class, or palette=[] for random ones'
            )
        return super()._update_palette()

    def load_data_list(self):
        """Lists the images as MMSegmentation does, after a look whether their folders are there."""
        image_dir, label_dir = self._folders()
        if self._is_local():
            for key, path in (
                ('ann_file', self.ann_file),
                ('data_prefix.img_path', image_dir),
                ('data_prefix.seg_map_path', label_dir),
            ):
                if path:
                    label_map_checks.check_path(path, self.data_root, key)
        data_list = super().load_data_list()
        if not data_list and self.ann_file:
            raise DataError(f'{self.ann_file}: names no image; correct ann_file')
        if not data_list:
            raise DataError(
                f'{image_dir}: holds no image *{self.img_suffix}; correct data_prefix.img_path or img_suffix'
            )
        for data_info in data_list:  # for LoadCheckedAnnotations
            data_info.update(num_classes=len(self._metainfo['classes']), ignore_index=self.ignore_index)
        return data_list

    def filter_data(self):
        """Filters as MMSegmentation does, and checks that the files of what is left, and used, are there."""
        self.data_list = super().filter_data()
        if not self._is_local():
            return self.data_list
        image_dir, label_dir = self._folders()
        if self.ann_file:  # else the images were found, not named
            self._check_files(
                'img_path',
                image_dir,
                self.img_suffix,
                lambda absent, number: (
                    f'{absent[0]}: image not found ({len(absent)} of {number} used from {self.ann_file} are missing); '
                    'add them, or correct data_prefix.img_path or img_suffix'
                ),
            )
        if label_dir:
            self._check_files(
                'seg_map_path',
                label_dir,
                self.seg_map_suffix,
                lambda absent, number: (
                    f'{absent[0]}: label map not found ({len(absent)} of {number} images have none); add them, remove '
                    'the images, or correct data_prefix.seg_map_path or seg_map_suffix'
                ),
            )
        return self.data_list

    def find_faults(self):
        """All faults of the folders, and checks of the files, for `tools/check_dataset.py`."""
        return check.label_map_faults(self)

    def _check_files(self, key, folder, suffix, sentence):
        """Refuses files that are absent, or leaves out their images."""
        used = self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)
        paths = [data_info[key] for data_info in used]
        absent = _missing(folder, suffix, paths)
        if not absent:
            return
        if not self._skips() or len(absent) == len(paths):
            raise MissingFileError(sentence(absent, len(paths)))
        if self._indices is None:  # else other images would move to those places; loading will skip them
            print_log(
                f"bad_data='skip' leaves out {len(absent)} of {len(paths)} images; the first: "
                f'{sentence(absent, len(paths))}',
                'current',
                logging.WARNING,
            )
            absent = set(absent)
            self.data_list = [data_info for data_info in self.data_list if data_info[key] not in absent]

    def _folders(self):
        """The folders of images and of label maps, the latter None for test images that have none."""
        image_dir, label_dir = (self.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
        if not image_dir or not label_dir and not self.test_mode:
            raise ConfigError(
                f'data_prefix={self.data_prefix}: name the folders of images and label maps; '
                'write data_prefix=dict(img_path=..., seg_map_path=...)'
            )
        return image_dir, label_dir

    def _is_local(self):
        return self._reads_locally(self._folders()[0])


@DATASETS.register_module()
class CheckedADE20KDataset(CheckedLabelMaps, ADE20KDataset):
    """MMSegmentation's `ADE20KDataset`, checked."""


@DATASETS.register_module()
class CheckedCityscapesDataset(CheckedLabelMaps, CityscapesDataset):
    """MMSegmentation's `CityscapesDataset`, checked."""


@DATASETS.register_module()
class LabelMapDataset(CheckedLabelMaps, BaseSegDataset):
    """Any folder of images with a folder of label maps: PNG files of the same names, whose values are indices
    of `metainfo.classes`.

    Colours for pictures come from `metainfo.palette`, or else are drawn at random, the same each time.
    Arguments are `BaseSegDataset`'s.
    """


def _missing(folder, suffix, paths):
    """Which of these paths are not there; the folder is listed once."""
    names = fileio.list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
    there = {osp.join(folder, name) for name in names}
    # The second question is for names that start with a dot, and file systems that match in another case.
    return [path for path in paths if path not in there and not osp.exists(path)]
