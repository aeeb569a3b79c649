"""Checks of COCO-format data, each error one sentence: what is wrong, in which file, what to do.

Entries are walked in plain loops and a folder's names are read once, so that COCO's 118k images and 860k
boxes take a second or two.
"""

import json
import math
import os
import os.path as osp

from mmfocal.datasets.validation.issues import Fault, missing, short
from mmfocal.datasets.validation.masks import mask_fault
from mmfocal.errors import ConfigError, DataError, MissingFileError

LONGEST = 4096  # characters of a path
FARTHEST = 1e8  # px: sides, and boxes from the origin, beyond which float32 or an area of it would overflow


def check_annotation_file(ann_file, data_root=''):
    """Refuses a folder or an annotation file that is not there.

    Args:
        ann_file (str): Path of the annotation file, `data_root` included.
        data_root (str): The data set's folder. Default: none.

    Raises:
        MissingFileError: If `ann_file`, or the `data_root` that it lies in, does not exist.
    """
    if osp.isfile(ann_file):
        return
    if not data_root or not ann_file.startswith(data_root):
        raise MissingFileError(f'{ann_file}: file not found; correct ann_file or see README "Data"')
    what = 'folder' if not osp.isdir(data_root) else ann_file[len(data_root) :].lstrip('/')
    if osp.normpath(data_root) == osp.normpath(os.environ.get('COCO_ROOT') or 'data/coco/'):
        raise MissingFileError(f'COCO_ROOT={data_root}: {what} not found; set COCO_ROOT or see README "Data"')
    raise MissingFileError(
        f'data_root={data_root}: {what} not found; correct data_root in the config '
        '(or set COCO_ROOT, if it reads that) or see README "Data"'
    )


def read_annotations(path, name):
    """Reads a COCO annotation file.

    Args:
        path (str): The local file.
        name (str): What errors call it: the path in the config, where `path` is a downloaded copy.

    Returns:
        The file's content, unchecked.

    Raises:
        DataError: If the file is not whole JSON.
    """
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f'{name}: not JSON, or cut short ({error}); fetch or export it again') from error


def check_annotations(coco, name, test_mode=False, masks=False):
    """Checks what an annotation file holds.

    Args:
        As of `annotation_faults`.

    Raises:
        DataError: At the first list, entry, id, size, box or mask that is not what it should be.
    """
    for fault in annotation_faults(coco, name, test_mode, masks):
        raise DataError(fault.sentence)


def annotation_faults(coco, name, test_mode=False, masks=False):
    """Looks for all that MMDetection could not load, or would load wrongly, in an annotation file.

    Args:
        coco (dict): The parsed file.
        name (str): What sentences call the file.
        test_mode (bool): Whether `annotations` may be absent, as in COCO's `image_info_test-dev2017.json`.
            Default: False.
        masks (bool): Whether each annotation must have a mask that can be drawn. Default: False.

    Yields:
        Fault: Each fault, with the entry to leave out, if that is a remedy.

    Raises:
        DataError: If it is not in COCO format at all.
    """
    coco = require_lists(coco, name, test_mode)
    category_ids, _ = yield from _entries(coco, 'categories', {'id', 'name'}, name)
    image_ids, bad_images = yield from _entries(coco, 'images', {'id', 'file_name', 'width', 'height'}, name)
    _, bad = yield from _entries(coco, 'annotations', {'id', 'image_id', 'category_id'}, name)

    sizes = {}
    for index, image in enumerate(coco['images']):
        if index in bad_images:
            continue
        file_name, width, height = image['file_name'], image['width'], image['height']
        here, entry = f'{name}: image {short(image["id"])}', ('images', index)
        if not isinstance(file_name, str) or not 0 < len(file_name) < LONGEST or '\0' in file_name:
            yield Fault(
                'image without a file name',
                f'{here} has file_name {short(file_name)}; write its path',
                name,
                image['id'],
                entry=entry,
            )
        elif not all(isinstance(side, (int, float)) and 0 < side < FARTHEST for side in (width, height)):
            yield Fault(
                'image size that is none',
                f'{here} has width {short(width)} and height {short(height)}; write its size in pixels',
                name,
                image['id'],
                entry=entry,
            )
        elif masks:
            sizes[image['id']] = height, width

    for index, annotation in enumerate(coco['annotations']):
        if index in bad:
            continue
        category_id, image_id = annotation['category_id'], annotation['image_id']
        bbox, area = annotation.get('bbox'), annotation.get('area')
        # MMDetection skips what is marked `ignore` before it looks at the box.
        ignored = annotation.get('ignore')
        try:
            known = category_id in category_ids and image_id in image_ids
        except TypeError:  # a list, or an object
            known = False
        is_sound = ignored or is_box(bbox, area)
        if known and is_sound:
            if not masks or ignored or image_id not in sizes:
                continue
            fault = mask_fault(annotation.get('segmentation'), *sizes[image_id])
            if fault is None:
                continue
        here, about = f'{name}: annotation {short(annotation["id"])} has', (name, image_id, annotation['id'])
        entry = 'annotations', index
        if not known and not _is_among(category_id, category_ids):
            yield Fault(
                'unknown category',
                f"{here} category_id {short(category_id)}, which is not in the file's "
                'categories; add the category or correct the annotation',
                *about,
                entry=entry,
            )
        elif not known:
            yield Fault(
                'unknown image',
                f"{here} image_id {short(image_id)}, which is not in the file's images; "
                'add the image or remove the annotation',
                *about,
                entry=entry,
            )
        elif not is_sound:
            yield Fault(
                'box that is not numbers',
                f'{here} bbox {short(bbox)} and area {short(area)} (image '
                f'{short(image_id)}); write four finite numbers [x, y, width, height] and one, in pixels',
                *about,
                entry=entry,
            )
        else:
            yield Fault(
                fault[0],
                f'{here} {fault[1]} (image {short(image_id)}); export its mask again, or remove it',
                *about,
                entry=entry,
            )


def require_lists(coco, name, test_mode=False):
    """Refuses what is not in COCO format at all.

    Args:
        coco, name, test_mode: As of `annotation_faults`.

    Returns:
        dict: The file's lists; to test, with an empty one of annotations where there is none.

    Raises:
        DataError: If a list is absent, or the one of images is empty.
    """
    if not isinstance(coco, dict):
        raise DataError(
            f'{name}: holds a {type(coco).__name__}, not an object with images, annotations and '
            'categories; name a file in COCO format'
        )
    if test_mode:
        coco = {'annotations': [], **coco}
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(coco.get(key), list):
            raise DataError(f'{name}: has no list of {key!r}; name a file in COCO format')
    if not coco['images']:
        raise DataError(f'{name}: its list of images is empty; name a file with images')
    return coco


def leave_out(coco, faults, with_images=False):
    """An annotation file without its bad entries.

    Args:
        coco (dict): The parsed file.
        faults (Sequence[Fault]): As of `annotation_faults`.
        with_images (bool): Whether an image goes with its bad annotation, as one must that has a PNG of all
            segments. Default: False.

    Returns:
        dict: The content without the faults' entries, and without annotations of images that are left out.

    Raises:
        DataError: If a fault is of nothing that can be left out, as a category, or no image remains.
    """
    for fault in faults:
        if fault.entry is None:
            raise DataError(fault.sentence)
    bad = {fault.entry for fault in faults}
    bad_ids = {fault.image for fault in faults if with_images and fault.entry[0] == 'annotations'}
    images = [
        image
        for index, image in enumerate(coco['images'])
        if ('images', index) not in bad and image['id'] not in bad_ids
    ]
    if not images:
        raise DataError(f'{faults[0].sentence} (and no sound image remains)')
    image_ids = {image['id'] for image in images}
    annotations = [
        annotation
        for index, annotation in enumerate(coco.get('annotations', []))
        if ('annotations', index) not in bad and annotation['image_id'] in image_ids
    ]
    return {**coco, 'images': images, 'annotations': annotations}


def check_classes(classes, coco, name):
    """Checks a config's class names against the file's categories.

    MMDetection numbers the labels in the file's order, whatever the order of `classes`: with another order,
    wrong names would stand beside the boxes.

    Args:
        classes (Sequence[str]): `metainfo.classes`, all or a part of the file's categories.
        coco (dict): The parsed file.
        name (str): What errors call the file.

    Raises:
        ConfigError: If `classes` is not a list, has names that the file has not, or another order.
    """
    if isinstance(classes, str):
        raise ConfigError(f'metainfo.classes={classes!r} is not a list of names; write ({classes!r}, )')
    in_file = [category['name'] for category in coco['categories']]
    unknown = [cls for cls in classes if cls not in in_file]
    if unknown:
        raise ConfigError(
            f'metainfo.classes: {_few(unknown)} not in the categories of {name}, which has '
            f'{_few(in_file)}; set metainfo=dict(classes=(...)) to names of that file'
        )
    numbered = tuple(cls for cls in in_file if cls in classes)
    if numbered != tuple(classes):
        raise ConfigError(
            'metainfo.classes: labels are numbered in the order of the categories of '
            f'{name}; write classes={numbered!r}'
        )


def check_images_exist(paths, name):
    """Checks that images are there, without opening them.

    Args:
        paths (Sequence[str]): Local image paths.
        name (str): The annotation file that lists them.

    Raises:
        MissingFileError: If any is absent; it names the first and says how many are.
    """
    absent = missing(paths)
    if absent:
        raise MissingFileError(
            f'{paths[absent[0]]}: image not found ({len(absent)} of {len(paths)} used from '
            f'{name} are missing); fetch them, or correct COCO_ROOT or data_prefix'
        )


def _entries(coco, key, fields, name):
    """Yields the faults of a list's entries, each of which must have these fields and an id of its own.

    Returns the ids, and the indices of the faulty entries.
    """
    ids, bad = set(), set()
    for index, entry in enumerate(coco[key]):
        kind = None
        if not isinstance(entry, dict):
            kind, sentence = (
                'entry that is no object',
                (f'{key}[{index}] is {short(entry)}; write an object with {_few(fields)}'),
            )
        elif not fields <= entry.keys():
            kind, sentence = (
                'entry without a field',
                (f'{key}[{index}] (id {short(entry.get("id"))}) lacks {_few(fields - entry.keys())}; add it'),
            )
        elif not is_id(entry['id']):
            kind, sentence = (
                'id that is none',
                (f'{key}[{index}] has the id {short(entry["id"])}; write a whole number of its own'),
            )
        elif entry['id'] in ids:
            kind, sentence = 'duplicate id', f'id {short(entry["id"])} occurs twice in {key}; give each its own'
        if kind is None:
            ids.add(entry['id'])
            continue
        bad.add(index)
        entry_id = entry.get('id') if isinstance(entry, dict) else None
        of = {'images': dict(image=entry_id), 'annotations': dict(annotation=entry_id)}.get(key, {})
        yield Fault(kind, f'{name}: {sentence}', name, **of, entry=None if key == 'categories' else (key, index))
    return ids, bad


def is_id(value):
    """Whether a value can be an id: a number or a text that equals itself."""
    return isinstance(value, (int, str)) or isinstance(value, float) and math.isfinite(value)


def _is_among(value, ids):
    return is_id(value) and value in ids


def is_box(bbox, area):
    """Whether a box is four finite numbers and an area one more, none beyond reason."""
    try:
        # A sum is finite only if its terms are.
        return (
            len(bbox) == 4
            and math.isfinite(sum(bbox) + area)
            and -FARTHEST < min(bbox)
            and max(bbox) < FARTHEST
            and -FARTHEST < area < FARTHEST**2
        )
    except (TypeError, OverflowError):
        return False


def _few(names, most=5):
    names = sorted(names) if isinstance(names, set) else names
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(map(short, names[:most])) + more
