"""Checks of COCO-format data, each error one sentence: what is wrong, in which file, what to do.

Entries are walked in plain loops and a folder's names are read once, so that COCO's 118k images and 860k
boxes take a second or two.
"""
import json
import math
import os
import os.path as osp

from mmfocal.errors import ConfigError, DataError, MissingFileError


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
    what = 'folder' if not osp.isdir(data_root) else ann_file[len(data_root):].lstrip('/')
    if osp.normpath(data_root) == osp.normpath(os.environ.get('COCO_ROOT') or 'data/coco/'):
        raise MissingFileError(f'COCO_ROOT={data_root}: {what} not found; set COCO_ROOT or see README "Data"')
    raise MissingFileError(f'data_root={data_root}: {what} not found; correct data_root in the config '
                           '(or set COCO_ROOT, if it reads that) or see README "Data"')


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


def check_annotations(coco, name, test_mode=False):
    """Checks what an annotation file holds.

    Args:
        coco (dict): The parsed file.
        name (str): What errors call the file.
        test_mode (bool): Whether `annotations` may be absent, as in COCO's `image_info_test-dev2017.json`.
            Default: False.

    Raises:
        DataError: At the first list, entry, id, size or box that is not what it should be.
    """
    if not isinstance(coco, dict):
        raise DataError(f'{name}: holds a {type(coco).__name__}, not an object with images, annotations and '
                        'categories; name a file in COCO format')
    if test_mode:
        coco = {'annotations': [], **coco}
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(coco.get(key), list):
            raise DataError(f'{name}: has no list of {key!r}; name a file in COCO format')
    if not coco['images']:
        raise DataError(f'{name}: its list of images is empty; name a file with images')

    category_ids = _ids(coco, 'categories', {'id', 'name'}, name)
    image_ids = _ids(coco, 'images', {'id', 'file_name', 'width', 'height'}, name)
    _ids(coco, 'annotations', {'id', 'image_id', 'category_id'}, name)

    for image in coco['images']:
        here = f'{name}: image {image["id"]!r}'
        file_name, width, height = image['file_name'], image['width'], image['height']
        if not isinstance(file_name, str):
            raise DataError(f'{here} has file_name {file_name!r}; write its path')
        if not all(isinstance(side, (int, float)) and 0 < side < math.inf for side in (width, height)):
            raise DataError(f'{here} has width {width!r} and height {height!r}; write its size in pixels')

    for annotation in coco['annotations']:
        category_id, image_id = annotation['category_id'], annotation['image_id']
        bbox, area = annotation.get('bbox'), annotation.get('area')
        # MMDetection skips what is marked `ignore` before it looks at the box.
        is_sound = annotation.get('ignore') or _is_box(bbox, area)
        if category_id in category_ids and image_id in image_ids and is_sound:
            continue
        here = f'{name}: annotation {annotation["id"]!r} has'
        if category_id not in category_ids:
            raise DataError(f"{here} category_id {category_id!r}, which is not in the file's categories; "
                            'add the category or correct the annotation')
        if image_id not in image_ids:
            raise DataError(f"{here} image_id {image_id!r}, which is not in the file's images; "
                            'add the image or remove the annotation')
        raise DataError(f'{here} bbox {bbox!r} and area {area!r} (image {image_id!r}); '
                        'write four finite numbers [x, y, width, height] and one, in pixels')


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
        raise ConfigError(f'metainfo.classes: {_few(unknown)} not in the categories of {name}, which has '
                          f'{_few(in_file)}; set metainfo=dict(classes=(...)) to names of that file')
    numbered = tuple(cls for cls in in_file if cls in classes)
    if numbered != tuple(classes):
        raise ConfigError('metainfo.classes: labels are numbered in the order of the categories of '
                          f'{name}; write classes={numbered!r}')


def check_images_exist(paths, name):
    """Checks that images are there, without opening them.

    Args:
        paths (Sequence[str]): Local image paths.
        name (str): The annotation file that lists them.

    Raises:
        MissingFileError: If any is absent; it names the first and says how many are.
    """
    folders = {}
    missing = []
    for path in paths:
        folder, file_name = osp.split(path)
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(folder or '.'))
            except OSError:  # absent, or not readable as a list: each image is then asked for
                folders[folder] = set()
        # The second question is for file systems whose names match in another case or Unicode form.
        if file_name not in folders[folder] and not osp.exists(path):
            missing.append(path)
    if missing:
        raise MissingFileError(f'{missing[0]}: image not found ({len(missing)} of {len(paths)} used from '
                               f'{name} are missing); fetch them, or correct COCO_ROOT or data_prefix')


def _ids(coco, key, fields, name):
    """The ids of a list's entries, each of which must have these fields and an id of its own."""
    ids = set()
    for index, entry in enumerate(coco[key]):
        if not isinstance(entry, dict):
            raise DataError(f'{name}: {key}[{index}] is {entry!r}; write an object with {_few(fields)}')
        if not fields <= entry.keys():
            raise DataError(f'{name}: {key}[{index}] (id {entry.get("id")!r}) lacks '
                            f'{_few(fields - entry.keys())}; add it')
        if entry['id'] in ids:
            raise DataError(f'{name}: id {entry["id"]!r} occurs twice in {key}; give each its own')
        ids.add(entry['id'])
    return ids


def _is_box(bbox, area):
    try:
        # A sum is finite only if its terms are.
        return len(bbox) == 4 and math.isfinite(sum(bbox) + area)
    except (TypeError, OverflowError):
        return False


def _few(names, most=5):
    names = sorted(names) if isinstance(names, set) else names
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(map(repr, names[:most])) + more
