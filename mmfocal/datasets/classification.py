"""Images with one label each, in class folders or in a zip file with a list, validated before training starts."""

import os.path as osp
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from mmengine.fileio import list_from_file
from mmpretrain.datasets import CustomDataset, ImageNet
from mmpretrain.registry import DATASETS

from mmfocal.datasets.bad_data import StopOrSkip
from mmfocal.datasets.validation.class_folders import (
    FolderReader,
    Sample,
    find_list_issues,
    list_class_folders,
    list_files,
    number_classes,
    read_label_list,
)
from mmfocal.datasets.validation.files import check_exists, is_local
from mmfocal.datasets.validation.images import find_image_issues
from mmfocal.datasets.validation.issues import Issue
from mmfocal.datasets.zip_backend import PREFIX, Member, list_members, parse_uri, read_member
from mmfocal.errors import ConfigError, DataError, MissingFileError, UserError

TRAIN = ('train', 'training')


class CheckedClasses(StopOrSkip):
    """Mixin of the data sets below: one clear message for each issue of their folders, lists and images.

    Images are in one folder per class, or in a folder or zip file with a list of paths and labels (`ann_file`). Where
    `data_prefix` is a folder `NAME` that does not exist, `NAME.zip` with `NAME_map.txt` takes its place.

    Class folders are numbered in the order of their names: those of the folder `train` beside the split's own if there
    is one, so that a class that a split lacks does not shift the labels of others.

    Args:
        bad_data: `stop` at bad data, or `skip` it in training, as in `StopOrSkip`.

    Raises:
        MissingFileError: If the data root, a folder, a list or a zip file is missing.
        DataError: If class folders or the list have an error, there is no image, or an image is damaged.
        ConfigError: If `metainfo.classes` do not fit.
    """

    backend_args = None  # MMPretrain's data sets have none; `StopOrSkip` asks

    def load_data_list(self) -> list[dict]:
        """Lists the images with their labels, after checking folders and lists."""
        if not self._is_checked():
            if is_local(self.img_prefix):  # a folder of images without labels
                folder = osp.normpath(self.img_prefix)
                check_exists(folder, self.data_root, 'data_prefix')
                if not self.ann_file and not any(map(self.is_valid_file, list_files(folder))):
                    raise DataError(f'{folder}: no images; correct data_prefix')
            return super().load_data_list()
        samples, issues = self._read()
        self._report(issues, self._name)
        return [dict(img_path=path, gt_label=label) for path, label in samples]

    def find_issues(self) -> tuple[list[Issue], list[Callable[[], list[Issue]]]]:
        """Returns the issues of folders and lists, and checks of the images, for `tools/check_dataset.py`.

        The data set need not be loaded. Checks can be sent to another process; their first argument is a path.
        """
        try:
            if not self._is_checked():
                raise DataError(f'{self._name}: has no labels, or is not on this machine; nothing to check')
            samples, issues = self._read()
        except (ConfigError, DataError, MissingFileError) as error:
            return [Issue('folder', str(error), self._name)], []
        checks: list[Callable[[], list[Issue]]] = []
        for path, _ in samples:
            if path.startswith(PREFIX):
                checks.append(partial(find_member_issues, parse_uri(path).archive, path, self.color_type))
            else:
                checks.append(partial(find_image_issues, path, color_type=self.color_type))
        return issues, checks

    def prepare_data(self, idx: int) -> Any:
        """Loads a sample as `StopOrSkip` does; an error names the member of a zip file too."""
        try:
            return super().prepare_data(idx)
        except UserError:
            raise
        except Exception as error:
            path = self.get_data_info(idx)['img_path']
            if path.startswith(PREFIX):
                member = parse_uri(path)
                if cv2.imdecode(np.frombuffer(read_member(member), np.uint8), cv2.IMREAD_COLOR) is None:
                    raise DataError(
                        f'{member.label}: not an image, or damaged; write it again, or remove it and its label'
                    ) from error
            raise

    def _read(self) -> tuple[list[Sample], list[Issue]]:
        """Returns the images, with paths to load them by, and all issues of the split."""
        folder, ann_file = osp.normpath(self.img_prefix), self.ann_file
        if not ann_file and not osp.isdir(folder) and osp.isfile(f'{folder}.zip'):
            folder, ann_file = f'{folder}.zip', f'{folder}_map.txt'
            if not osp.isfile(ann_file):
                raise MissingFileError(
                    f'{folder}: its labels are missing; add {osp.basename(ann_file)}, with a path and a label per line'
                )
        check_exists(folder, self.data_root, 'data_prefix')
        if ann_file:
            check_exists(ann_file, self.data_root, 'ann_file')
            return self._read_list(folder, ann_file)
        if not osp.isdir(folder):
            raise DataError(f'{folder}: a file, but class folders are expected; name its list as ann_file')
        return self._read_folders(folder)

    def _read_folders(self, folder: str) -> tuple[list[Sample], list[Issue]]:
        train = next((path for path in (osp.join(osp.dirname(folder), name) for name in TRAIN) if osp.isdir(path)), '')
        source = train if train and list_class_folders(train) else folder
        folders = list_class_folders(source)
        labels, issues = number_classes(folders, source, self.CLASSES) if folders else ({}, [])
        if issues:
            return [], issues
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(folders)
        self.folder_to_idx = labels
        reader = FolderReader(folder, labels, source, self.extensions)
        reader.read()
        return [Sample(osp.join(folder, path), label) for path, label in reader.samples], reader.issues

    def _read_list(self, folder: str, ann_file: str) -> tuple[list[Sample], list[Issue]]:
        if self.CLASSES is None:
            raise ConfigError(
                f'{ann_file}: has no names of classes; write metainfo=dict(classes=(...)), in the order of the labels'
            )
        try:
            lines = list_from_file(ann_file)
        except UnicodeDecodeError as error:
            raise DataError(f'{ann_file}: is no text; write a path and a label per line') from error
        samples, issues = read_label_list(lines, ann_file, len(self.CLASSES))
        members: dict[str, Member] = list_members(folder) if folder.lower().endswith('.zip') else {}
        present = members.keys() if members else list_files(folder) if osp.isdir(folder) else set()
        samples, found = find_list_issues(samples, present, ann_file, folder, self.CLASSES)
        if members:
            return [Sample(members[path].uri, label) for path, label in samples], issues + found
        return [Sample(osp.join(folder, path), label) for path, label in samples], issues + found

    def _is_checked(self) -> bool:
        return self.with_label and is_local(self.img_prefix) and is_local(self.ann_file)

    @property
    def _name(self) -> str:
        """What messages call the split."""
        return self.ann_file or osp.normpath(self.img_prefix)


def find_member_issues(archive: str, uri: str, color_type: str = 'color') -> list[Issue]:
    """Decodes an image in a zip file and returns what is wrong with it, as `find_image_issues`.

    Args:
        archive: The zip file.
        uri: `Member.uri`.
        color_type: As of `LoadImageFromFile`.
    """
    member = parse_uri(uri)
    try:
        content = read_member(member)
    except (DataError, MissingFileError) as error:
        return [Issue('damaged', str(error), archive)]
    with tempfile.NamedTemporaryFile(suffix=osp.splitext(member.name)[1]) as file:
        file.write(content)
        file.flush()
        found = find_image_issues(file.name, color_type=color_type)
    return [
        issue._replace(message=issue.message.replace(file.name, member.label), file=member.label) for issue in found
    ]


@DATASETS.register_module()
class CheckedImageNet(CheckedClasses, ImageNet):
    """MMPretrain's `ImageNet`, validated: `train/` and `val/` with class folders, or the zip files with their lists."""


@DATASETS.register_module()
class CheckedCustomDataset(CheckedClasses, CustomDataset):
    """MMPretrain's `CustomDataset`, validated: class folders of any number of classes."""
