"""Images with label maps, validated before training starts."""

import os.path as osp
from collections import Counter
from collections.abc import Callable
from functools import partial

from mmengine import fileio, list_from_file
from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset
from mmseg.registry import DATASETS

from mmfocal.datasets.bad_data import StopOrSkip
from mmfocal.datasets.validation.files import check_exists
from mmfocal.datasets.validation.images import find_image_issues, find_label_map_issues
from mmfocal.datasets.validation.issues import Issue
from mmfocal.datasets.validation.label_statistics import find_split_issues
from mmfocal.errors import ConfigError, DataError, MissingFileError
from mmfocal.text import join_some

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.jp2', '.ppm')


class CheckedLabelMaps(StopOrSkip):
    """Mixin of the data sets below: one clear message for each issue of their folders, classes and label maps.

    `img_suffix` may be several suffixes. What the label maps of a split lack is logged before training; to train with
    one class only is an error.

    `LoadCheckedAnnotations` validates the label maps themselves. Files that a remote backend serves (`backend_args`,
    URLs) are not looked for.

    Args:
        bad_data: `stop` at bad data, or `skip` it in training, as in `StopOrSkip`.

    Raises:
        MissingFileError: If the data root, a folder of it, an image or a label map is missing.
        DataError: If there is no image, or one cannot be decoded.
        ConfigError: If there are no class names, unknown ones, not a colour for each, or no label maps to train with.
    """

    _other_images: list[str] = []  # whose suffix is not among `img_suffix`
    _listings: dict[str, set[str]] = {}  # files of folders, while the data set is loaded

    @classmethod
    def get_label_map(cls, new_classes: list[str] | tuple[str, ...] | None = None) -> dict | None:
        """Numbers the classes as MMSegmentation does, which calls this first of all."""
        if not new_classes or isinstance(new_classes, str):
            raise ConfigError(
                f'metainfo.classes={new_classes!r}: {cls.__name__} needs the names of its classes, in the order of the '
                "label maps' values; write metainfo=dict(classes=('background', ...))"
            )
        known = cls.METAINFO.get('classes', new_classes)
        unknown = [name for name in new_classes if name not in known]
        if unknown:
            raise ConfigError(
                f'metainfo.classes: {unknown[0]!r} ({len(unknown)} of {len(new_classes)}) is not a class of '
                f"{cls.__name__}; correct it, or set type='LabelMapDataset' for your own classes"
            )
        return super().get_label_map(new_classes)

    def _update_palette(self) -> list:
        colours, classes = self._metainfo.get('palette', []), self._metainfo['classes']
        if self.label_map is None and len(colours) not in (0, len(classes)):
            raise ConfigError(
                f'metainfo.palette has {len(colours)} colours for {len(classes)} classes; '
                'write one [red, green, blue] per class, or palette=[] for random ones'
            )
        return super()._update_palette()

    def load_data_list(self) -> list[dict]:
        """Lists the images as MMSegmentation does, after checking that their folders exist."""
        image_dir, label_dir = self._folders()
        if self._is_local():
            for key, path in (
                ('ann_file', self.ann_file),
                ('data_prefix.img_path', image_dir),
                ('data_prefix.seg_map_path', label_dir),
            ):
                if path:
                    check_exists(path, self.data_root, key)
        data_list = [self._make_data_info(name, image_dir, label_dir) for name in self._list_names(image_dir)]
        if not data_list and self.ann_file:
            raise DataError(f'{self.ann_file}: names no image; correct ann_file')
        if not data_list:
            raise DataError(
                f'{image_dir}: holds no image *{self._suffixes[0]}{self._other_suffixes()}; '
                'correct data_prefix.img_path or img_suffix'
            )
        for data_info in data_list:  # for LoadCheckedAnnotations
            data_info.update(num_classes=len(self._metainfo['classes']), ignore_index=self.ignore_index)
        return data_list

    def filter_data(self) -> list[dict]:
        """Filters as MMSegmentation does, and checks the files of what is left, and used."""
        self.data_list = super().filter_data()
        if not self._is_local():
            return self.data_list
        self._check_all_files()
        self._report(self._find_split_issues(self._used()), self._name)
        self._listings = {}
        return self.data_list

    def _check_all_files(self) -> None:
        image_dir, label_dir = self._folders()
        if self.ann_file:  # else the images were found, not named
            self._check_files(
                'img_path',
                image_dir,
                self._suffixes,
                '{first}: image not found ({missing} of {number} used from ' + self.ann_file + ' are missing); '
                'add them, or correct data_prefix.img_path or img_suffix',
            )
        if label_dir:
            self._check_files(
                'seg_map_path',
                label_dir,
                self.seg_map_suffix,
                '{first}: label map not found ({missing} of {number} images have none); add them, remove the images, '
                'or correct data_prefix.seg_map_path or seg_map_suffix',
            )

    def find_issues(self) -> tuple[list[Issue], list[Callable[[], list[Issue]]]]:
        """Returns the issues of the folders, and checks of the files, for `tools/check_dataset.py`.

        The data set need not be loaded. Checks can be sent to another process; their first argument is a path.
        """
        try:
            if not self._is_local():
                raise DataError(f'{self.data_root}: is not on this machine; fetch the data set to check it')
            data_list = self.load_data_list()
        except (DataError, MissingFileError) as error:
            return [Issue('folder', str(error), self.ann_file or self.data_root)], []
        checks = []
        for data_info in data_list:
            path, label_path = data_info['img_path'], data_info.get('seg_map_path')
            checks.append(partial(find_image_issues, path, color_type=self.color_type))
            if label_path:
                num_classes = len(self.label_map or ()) or data_info['num_classes']
                first, ignore_index = int(data_info['reduce_zero_label']), data_info['ignore_index']
                checks.append(partial(find_label_map_issues, label_path, path, num_classes, first, ignore_index))
        return self._find_split_issues(data_list), checks

    def _list_names(self, image_dir: str) -> list[str]:
        """Returns the images' paths relative to their folder: those in `ann_file`, or all with the suffixes."""
        if self.ann_file and not osp.isdir(self.ann_file):
            lines = list_from_file(self.ann_file, backend_args=self.backend_args)
            stems = [line.strip() for line in lines if line.strip()]
            return [self._find_suffix(image_dir, stem) for stem in stems]
        listed = fileio.list_dir_or_file(image_dir, list_dir=False, recursive=True, backend_args=self.backend_args)
        names = sorted(filter(_is_visible, listed))
        self._other_images = [
            name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.endswith(self._suffixes)
        ]
        return [name for name in names if name.endswith(self._suffixes)]

    def _other_suffixes(self) -> str:
        suffixes = sorted({osp.splitext(name)[1] for name in self._other_images})
        return f', but images {join_some(suffixes)}' if suffixes else ''

    def _find_suffix(self, image_dir: str, stem: str) -> str:
        """Returns the name of a listed image, with the first suffix that exists."""
        for suffix in self._suffixes:
            if osp.exists(osp.join(image_dir, stem + suffix)):
                return stem + suffix
        return stem + self._suffixes[0]

    def _make_data_info(self, name: str, image_dir: str, label_dir: str | None) -> dict:
        """Returns what MMSegmentation knows about an image, and what `LoadCheckedAnnotations` needs."""
        data_info = dict(img_path=osp.join(image_dir, name))
        if label_dir is not None:
            suffix = next(suffix for suffix in self._suffixes if name.endswith(suffix))
            data_info['seg_map_path'] = osp.join(label_dir, name.removesuffix(suffix) + self.seg_map_suffix)
        data_info.update(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label, seg_fields=[])
        return data_info

    def _find_split_issues(self, data_list: list[dict]) -> list[Issue]:
        """Returns issues of all files together."""
        issues = []
        if self._other_images:
            suffixes = Counter(osp.splitext(name)[1] for name in self._other_images)
            what = join_some(f'{suffix} {number}' for suffix, number in suffixes.most_common())
            wanted = (*self._suffixes, *suffixes)
            message = (
                f'{self._folders()[0]}: {len(self._other_images)} images have another suffix ({what}) and are not used,'
                f' such as {self._other_images[0]}; set img_suffix={wanted!r}'
            )
            issues.append(Issue('images with another suffix', message, self._name, level='warning'))
        label_paths = [data_info['seg_map_path'] for data_info in data_list if data_info.get('seg_map_path')]
        if not label_paths:
            return issues
        if not self.ann_file:
            issues += self._find_unused_label_maps(label_paths)
        return issues + find_split_issues(
            label_paths,
            self._metainfo['classes'],
            self._name,
            int(self.reduce_zero_label),
            self.ignore_index,
            self.label_map,
            self.test_mode,
        )

    def _find_unused_label_maps(self, label_paths: list[str]) -> list[Issue]:
        """Returns a warning if there are label maps without an image."""
        folder = self._folders()[1]
        unused = sorted(self._list_files(folder, self.seg_map_suffix) - set(label_paths))
        if not unused:
            return []
        message = f'{unused[0]}: label map without an image ({len(unused)} of them); add the images or their suffixes'
        return [Issue('label map without an image', message, self._name, level='warning')]

    def _list_files(self, folder: str, suffix: str | tuple[str, ...]) -> set[str]:
        """Returns the paths of a folder's files, links included, without those that start with a dot."""
        if folder not in self._listings:
            names = fileio.list_dir_or_file(folder, list_dir=False, suffix=suffix, recursive=True)
            self._listings = {**self._listings, folder: {osp.join(folder, name) for name in names if _is_visible(name)}}
        return self._listings[folder]

    def _used(self) -> list[dict]:
        """Returns the part of `data_list` that `indices` select."""
        return self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)

    @property
    def _suffixes(self) -> tuple[str, ...]:
        """The images' suffixes: `img_suffix` is one or several."""
        return (self.img_suffix,) if isinstance(self.img_suffix, str) else tuple(self.img_suffix)

    @property
    def _name(self) -> str:
        """What messages call the split."""
        return self.ann_file or self._folders()[1] or self._folders()[0]

    def _check_files(self, key: str, folder: str, suffix: str, message: str) -> None:
        """Refuses missing files, or leaves out their images."""
        paths = [data_info[key] for data_info in self._used()]
        existing = self._list_files(folder, suffix)
        # Names may start with a dot, and file systems may match names in another case.
        missing = [path for path in paths if path not in existing and not osp.exists(path)]
        if not missing:
            return
        message = message.format(first=missing[0], missing=len(missing), number=len(paths))
        if not self.skips_bad_data or len(missing) == len(paths):
            raise MissingFileError(message)
        if self._indices is None:  # else other images would take those places; loading will skip them
            issues = [Issue('missing file', f'{path}: not found', folder, entry=('images', 0)) for path in missing[1:]]
            self._report([Issue('missing file', message, folder, entry=('images', 0)), *issues], folder)
            bad = set(missing)
            self.data_list = [data_info for data_info in self.data_list if data_info[key] not in bad]

    def _folders(self) -> tuple[str, str | None]:
        """Returns the folders of images and of label maps; the latter is None for test images that have none."""
        image_dir, label_dir = (self.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
        if not image_dir or not label_dir and not self.test_mode:
            raise ConfigError(
                f'data_prefix={self.data_prefix}: name the folders of images and label maps; '
                'write data_prefix=dict(img_path=..., seg_map_path=...)'
            )
        return image_dir, label_dir

    def _is_local(self) -> bool:
        return self._reads_locally(self._folders()[0])


@DATASETS.register_module()
class CheckedADE20KDataset(CheckedLabelMaps, ADE20KDataset):
    """MMSegmentation's `ADE20KDataset`, validated."""


@DATASETS.register_module()
class CheckedCityscapesDataset(CheckedLabelMaps, CityscapesDataset):
    """MMSegmentation's `CityscapesDataset`, validated."""


@DATASETS.register_module()
class LabelMapDataset(CheckedLabelMaps, BaseSegDataset):
    """A folder of images with a folder of label maps: files of the same names, whose values index `metainfo.classes`.

    Colours for pictures come from `metainfo.palette`, or else are drawn at random, the same each time. Arguments are
    those of `BaseSegDataset`.
    """


def _is_visible(name: str) -> bool:
    """Returns whether no folder of a path starts with a dot, as Jupyter's copies in `.ipynb_checkpoints` do."""
    return not any(part.startswith('.') for part in name.split('/')[:-1])
