"""Issues of data sets for classification: a folder per class, or a list of images with their labels."""

import hashlib
import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import NamedTuple

from mmfocal.datasets.validation.issues import Issue, quote_some
from mmfocal.errors import ConfigError
from mmfocal.text import join_some

OTHER_IMAGES = ('.jpg', '.jpeg', '.jpe', '.jp2', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.ppm', '.pgm')
_HIDDEN = ('.', '__MACOSX')  # what such names begin with: copies that editors and systems keep


class Sample(NamedTuple):
    """An image and its label; `path` is relative to the folder or zip file of the split."""

    path: str
    label: int


def list_class_folders(folder: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(_HIDDEN) and entry.is_dir())


def number_classes(
    folders: Sequence[str], where: str, classes: Sequence[str] | None
) -> tuple[dict[str, int], list[Issue]]:
    """Returns the label of each class folder, and what is wrong with the folders' number and names.

    Args:
        folders: Names of the class folders, sorted.
        where: The folder that holds them.
        classes: `metainfo.classes`: the folders' names in any order, or names for pictures in the order of the sorted
            folders. Default: the folders' names.
    """
    if classes is None:
        return {name: label for label, name in enumerate(folders)}, []
    known = set(folders) & set(classes)
    if known and len(known) > len(folders) / 2:  # else names for pictures, of which some may be a folder's too
        unknown, absent = sorted(set(folders) - set(classes)), sorted(set(classes) - set(folders))
        if unknown:
            message = (
                f'{osp.join(where, unknown[0])}: this folder ({len(unknown)} of {len(folders)}) is no class of '
                'metainfo.classes; remove it, or add the class'
            )
            return {}, [Issue('unknown class folder', message, where, error=ConfigError)]
        if absent:
            message = f'{where}: no class folders {quote_some(absent)}; add them, or correct metainfo.classes'
            return {}, [Issue('class folder missing', message, where, error=ConfigError)]
        return {name: label for label, name in enumerate(classes)}, []
    if len(folders) != len(classes):
        message = (
            f'{where}: {len(folders)} class folders, but {len(classes)} classes in metainfo.classes; complete the '
            'folders, or correct metainfo.classes'
        )
        return {}, [Issue('wrong number of class folders', message, where)]
    return {name: label for label, name in enumerate(folders)}, []


class FolderReader:
    """Lists the images of a split in class folders, and finds its issues.

    Args:
        folder: Folder of the split.
        labels: Labels by the names of the class folders.
        train_folder: Folder that has all classes; the same folder for the split to train with.
        extensions: Suffixes of images, in lower case.
    """

    def __init__(self, folder: str, labels: dict[str, int], train_folder: str, extensions: tuple[str, ...]):
        self.folder, self.labels, self.train_folder = folder, labels, train_folder
        self.extensions = extensions
        self.samples: list[Sample] = []
        self.issues: list[Issue] = []
        self._hidden: list[str] = []
        self._others: list[str] = []

    def read(self) -> None:
        """Fills `samples` and `issues`."""
        found = list_class_folders(self.folder)
        unknown = [name for name in found if name not in self.labels]
        if unknown:
            self._add(
                'unknown class folder',
                f'{osp.join(self.folder, unknown[0])}: class folder that {self.train_folder} lacks ({len(unknown)} of '
                f'{len(found)} do); add its training images, or remove it',
            )
        for name in found:
            if name not in self.labels:
                continue
            images = list(self._walk(name))
            self.samples += [Sample(path, self.labels[name]) for path in images]
            if not images:
                message = f'{osp.join(self.folder, name)}: class folder without images; add them'
                self._add('empty class folder', message, 'warning')
        absent = sorted(set(self.labels) - set(found))
        if absent and not unknown:
            message = f'{self.folder}: no images of {len(absent)} of {len(self.labels)} classes ({quote_some(absent)})'
            self._add('class folder missing', f'{message}; their accuracy counts for nothing', 'warning')
        beside = [name for name in _files(self.folder) if name.lower().endswith(OTHER_IMAGES)]
        if beside and found:
            message = f'{osp.join(self.folder, beside[0])}: image outside the class folders ({len(beside)} of them)'
            self._add('image outside the class folders', f'{message}, not used; move it into one', 'warning')
        if self._others:
            suffixes = Counter(osp.splitext(path)[1] for path in self._others)
            what = join_some(f'{suffix} {number}' for suffix, number in suffixes.most_common())
            self._add(
                'images with another suffix',
                f'{osp.join(self.folder, self._others[0])}: image with another suffix ({len(self._others)} of them: '
                f'{what}), not used; rename it, or set extensions',
                'warning',
            )
        if self._hidden:
            message = f'{osp.join(self.folder, self._hidden[0])}: hidden file ({len(self._hidden)} of them), not used'
            self._add('hidden file', message, 'note')
        if not self.samples and not unknown:
            self._add('no images', no_images_message(self.folder, found, len(beside)))
        self.issues += find_repeated_images(self.folder, self.samples)
        if osp.abspath(self.train_folder) != osp.abspath(self.folder):
            self.issues += self._find_training_images()

    def _add(self, kind: str, message: str, level: str = 'error') -> None:
        self.issues.append(Issue(kind, message, self.folder, level=level))

    def _walk(self, name: str) -> Iterator[str]:
        """Yields the images below a class folder, sorted, relative to the split's."""
        root = osp.join(self.folder, name)
        for path, folders, files in os.walk(root, followlinks=True):
            self._hidden += [
                osp.relpath(osp.join(path, one), self.folder)
                for one in files
                if one.startswith('.') and one.lower().endswith(OTHER_IMAGES)
            ]
            folders[:] = sorted(one for one in folders if not one.startswith(_HIDDEN))
            below = osp.relpath(path, self.folder)
            for one in sorted(files):
                if one.startswith('.'):
                    continue
                if one.lower().endswith(self.extensions):
                    yield f'{below}/{one}'
                elif one.lower().endswith(OTHER_IMAGES):
                    self._others.append(f'{below}/{one}')

    def _find_training_images(self) -> list[Issue]:
        """Returns a warning if images of this split are images to train with, in name and content."""
        shared = []
        for path, _ in self.samples:
            other = osp.join(self.train_folder, path)
            if osp.isfile(other) and _equal(osp.join(self.folder, path), other):
                shared.append(path)
        if not shared:
            return []
        message = (
            f'{osp.join(self.folder, shared[0])}: also an image of {self.train_folder} ({len(shared)} of '
            f'{len(self.samples)} are), so accuracy is too high; remove it from one of them'
        )
        return [Issue('image of the training set', message, self.folder, level='warning')]


def no_images_message(folder: str, class_folders: Collection[str], flat: int) -> str:
    """Returns the message about a split without images in class folders.

    Args:
        folder: Folder of the split.
        class_folders: Names of its folders.
        flat: Number of images directly in it.
    """
    if class_folders:
        return f'{folder}: {len(class_folders)} class folders without images; extract the images again'
    if flat:
        return (
            f'{folder}: {flat} images and no class folders; move them into one folder per class, or name a list of '
            'images and labels as ann_file'
        )
    return f'{folder}: neither class folders nor images; extract the images again'


def find_repeated_images(folder: str, samples: Sequence[Sample]) -> list[Issue]:
    """Returns a warning if files of the same name and content are in several class folders.

    Args:
        folder: Folder of the split.
        samples: Its images.
    """
    groups: list[list[Sample]] = [list(samples)]
    for key in (osp.basename, lambda path: _size(osp.join(folder, path)), lambda path: _digest(osp.join(folder, path))):
        groups = [same for group in groups for same in _split(group, key)]
    repeated = [
        (sample.path, first.path) for first, *others in groups for sample in others if sample.label != first.label
    ]
    if not repeated:
        return []
    one, other = repeated[0]
    message = f'{osp.join(folder, one)}: same image as {other} ({len(repeated)} such), with another label; remove one'
    return [Issue('image in two classes', message, folder, level='warning')]


def read_label_list(lines: Sequence[str], name: str, num_classes: int) -> tuple[list[Sample], list[Issue]]:
    """Returns the images and labels of a list, and what is wrong with its lines.

    Args:
        lines: A path and a label each, separated by a tab or a space.
        name: File that they come from.
        num_classes: Labels count from 0 to the one before.
    """
    samples: dict[str, Sample] = {}
    issues, beyond, repeated = [], [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = line.strip().rsplit(None, 1)
        if len(parts) < 2 or not parts[1].lstrip('-').isdigit():
            message = (
                f'{name}: line {number}, {line.strip()[:60]!r}, is no path and label, separated by a tab; correct it'
            )
            issues.append(Issue('line without a label', message, name, entry=('lines', number)))
            continue
        sample = Sample(parts[0], int(parts[1]))
        if not 0 <= sample.label < num_classes:
            beyond.append((number, sample))
            continue
        before = samples.setdefault(sample.path, sample)
        if before is not sample:
            repeated.append(number)
            if before.label != sample.label:
                message = (
                    f'{name}: line {number} labels {sample.path} {sample.label}, an earlier line {before.label}; '
                    'remove one'
                )
                issues.append(Issue('image with two labels', message, name, entry=('lines', number)))
    if beyond:
        number, sample = beyond[0]
        from_one = '' if any(one.label == 0 for one in samples.values()) else ' (they count from 0)'
        message = (
            f'{name}: line {number} labels {sample.path} {sample.label} ({len(beyond)} such), but labels are 0 to '
            f'{num_classes - 1}{from_one}; correct it, or metainfo.classes'
        )
        issues.append(Issue('label beyond the classes', message, name, entry=('lines', number)))
    if repeated:
        message = f'{name}: line {repeated[0]} names an image again ({len(repeated)} such), used once; remove it'
        issues.append(Issue('image listed twice', message, name, level='warning'))
    if not samples and not issues:
        issues.append(Issue('no images', f'{name}: lists no image; write a path and a label per line', name))
    return list(samples.values()), issues


def find_list_issues(
    samples: Sequence[Sample], present: Collection[str], name: str, where: str, classes: Sequence[str]
) -> tuple[list[Sample], list[Issue]]:
    """Returns the listed images that exist, and what is wrong with the list and its folder or zip file together.

    Args:
        samples: Of `read_label_list`.
        present: Paths of the files that exist.
        name: The list.
        where: The folder or zip file.
        classes: Names of the classes.
    """
    issues = []
    missing = [sample for sample in samples if sample.path not in present]
    kept = [sample for sample in samples if sample.path in present] if missing else list(samples)
    if missing:
        message = (
            f'{name}: {missing[0].path} is not in {where} ({len(missing)} of {len(samples)} images are not); complete '
            'it, or correct the list'
        )
        entry = ('images', 0) if kept else None
        issues.append(Issue('missing file', message, name, entry=entry))
    labelled = {sample.label for sample in kept}
    absent = [label for label in range(len(classes)) if label not in labelled]
    if absent and kept:
        names = quote_some([classes[label] for label in absent])
        message = f'{name}: no images of {len(absent)} of {len(classes)} classes ({names}); add them'
        issues.append(Issue('class without images', message, name, level='warning'))
    listed = {sample.path for sample in samples}
    unlisted = sorted(path for path in present if path not in listed and path.lower().endswith(OTHER_IMAGES))
    if unlisted:
        message = f'{where}: {unlisted[0]} is not in {name} ({len(unlisted)} images are not), not used; list it'
        issues.append(Issue('image without a label', message, where, level='warning'))
    return kept, issues


def list_files(folder: str) -> set[str]:
    """Returns the paths of all files below a folder, relative to it, without hidden ones."""
    found = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [one for one in folders if not one.startswith(_HIDDEN)]
        below = osp.relpath(path, folder)
        found |= {one if below == '.' else f'{below}/{one}' for one in files if not one.startswith('.')}
    return found


def _files(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith('.') and entry.is_file())


def _split(samples: Sequence[Sample], key: Callable[[str], Hashable]) -> list[list[Sample]]:
    """Returns the samples whose paths share a key, which is not None, in groups of at least two."""
    groups: defaultdict[Hashable, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample.path)].append(sample)
    groups.pop(None, None)
    return [same for same in groups.values() if len(same) > 1]


def _equal(one: str, other: str) -> bool:
    return _size(one) == _size(other) is not None and _digest(one) == _digest(other) is not None


def _size(path: str) -> int | None:
    """Returns the size in bytes; None for an empty file and for one that cannot be read, which loading reports."""
    try:
        return osp.getsize(path) or None
    except OSError:
        return None


def _digest(path: str) -> bytes | None:
    try:
        with open(path, 'rb') as file:
            return hashlib.sha1(file.read()).digest()
    except OSError:
        return None
