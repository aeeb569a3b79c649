"""Issues of COCO annotation files, found before training and evaluation, and the sound content that both use.

Entries are walked in plain loops, so that COCO's 118k images and 860k boxes take seconds.
"""

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from mmfocal.datasets.validation.categories import match_categories
from mmfocal.datasets.validation.files import find_missing
from mmfocal.datasets.validation.issues import Issue, is_id, quote_some, shorten
from mmfocal.datasets.validation.learnable import NEGATIVE, LearnableCounter
from mmfocal.datasets.validation.masks import find_mask_problem, is_short
from mmfocal.datasets.validation.outlines import OutlineComparer
from mmfocal.errors import DataError, MissingFileError

MAX_PATH = 4096  # characters
MAX_DISTANCE = 1e8  # px: sides, and boxes from the origin, beyond which float32 or an area would overflow
MAX_COMPARED = 10_000  # boxes that are compared with outlines if masks are not loaded
SLACK = 1  # px that a box may extend beyond its image


def read_annotations(path: str, name: str) -> Any:
    """Reads a JSON annotation file.

    Args:
        path: Local file.
        name: What errors call it: the path in the config, if `path` is a downloaded copy.

    Returns:
        The file's content, not validated.

    Raises:
        DataError: If the file is not complete JSON in UTF-8.
    """
    with open(path, 'rb') as file:
        start = file.read(64)
    if start[:2] in (b'\xff\xfe', b'\xfe\xff') or b'\0' in start[:2]:
        raise DataError(f'{name}: is encoded in UTF-16; save it as UTF-8')
    if start.startswith(b'version https://git-lfs'):
        raise DataError(f'{name}: not JSON, but a Git LFS pointer; fetch the file with git lfs pull')
    try:
        with open(path, encoding='utf-8-sig') as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(f'{name}: not JSON, or truncated ({error}); fetch or export it again') from error
    except UnicodeDecodeError as error:
        raise DataError(f'{name}: not JSON in UTF-8 ({error}); save or export it in that encoding') from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; lists in lists in lists
        raise DataError(f'{name}: not JSON that Python reads ({error}); export it again') from error


def validate_annotations(
    coco: Any,
    name: str,
    classes: Sequence[str] | None = None,
    *,
    test_mode: bool = False,
    masks: bool = False,
    urls: bool = False,
    default_classes: bool = False,
) -> tuple[list[Issue], dict | None]:
    """Finds all issues of an annotation file, and normalizes what is sound.

    Args:
        coco: The parsed file.
        name: What messages call the file.
        classes: `metainfo.classes`. Default: the file's categories.
        test_mode: Whether the file is for validation or testing: `annotations` may be absent, as in COCO's
            `image_info_test-dev2017.json`.
        masks: Whether each annotation needs a mask that can be drawn.
        urls: Whether images may be named by URL.
        default_classes: Whether `classes` are the data set's own, which the config does not override.

    Returns:
        Issues, and the file without the entries of errors: categories in the order of `classes`, flags as numbers,
        sizes as integers. None if the file is not in COCO format.
    """
    issues = find_format_issues(coco, name, test_mode)
    if issues:
        return issues, None
    found, categories, _ = check_entries(coco, 'categories', {'id', 'name'}, name)
    issues += found
    if classes is None:
        classes = [category['name'] for category in categories.values()]
    found, ordered = match_categories(list(categories.values()), classes, name, test_mode, default_classes)
    issues += found
    found, images, bad_images = validate_images(coco, name, urls)
    issues += found
    found, entries, _ = check_entries(coco, 'annotations', {'id', 'image_id', 'category_id'}, name)
    issues += found
    validator = _AnnotationValidator(name, categories, images, bad_images, classes, masks)
    annotations = [validator.validate(index, annotation) for index, annotation in entries.items()]
    annotations = [annotation for annotation in annotations if annotation is not None]
    of_masks = validator.outlines.find_issues()
    explained = any(issue.level == 'error' for issue in of_masks)
    issues += validator.issues + of_masks + validator.counter.find_issues(test_mode, explained)
    return issues, {**coco, 'images': list(images.values()), 'categories': ordered, 'annotations': annotations}


def find_format_issues(coco: Any, name: str, test_mode: bool = False) -> list[Issue]:
    """Returns why a file is not in COCO format at all: a list is absent, or there is no image.

    Args:
        coco: The parsed file.
        name: What messages call the file.
        test_mode: Whether the list of annotations may be absent.
    """
    message = None
    if not isinstance(coco, dict):
        message = f'holds a {type(coco).__name__}, not an object with images, annotations and categories'
    else:
        for key in ('images', 'annotations', 'categories'):
            if not (isinstance(coco.get(key), list) or test_mode and key == 'annotations' and key not in coco):
                message = f'has no list of {key!r}'
                break
        else:
            message = None if coco['images'] else 'its list of images is empty'
    if message is None:
        return []
    remedy = 'name a file with images' if 'empty' in message else 'name a file in COCO format'
    return [Issue('annotation file', f'{name}: {message}; {remedy}', name)]


def check_entries(coco: dict, key: str, fields: set[str], name: str) -> tuple[list[Issue], dict[Any, dict], set]:
    """Checks that a list's entries are objects with these fields and an id of their own.

    Returns:
        Issues; the valid entries by id, or by index for annotations; ids of the others.
    """
    issues: list[Issue] = []
    ids: set = set()
    valid, bad_ids = {}, set()
    for index, entry in enumerate(coco.get(key, ())):
        kind = None
        if not isinstance(entry, dict):
            kind = 'entry that is not an object'
            message = f'{key}[{index}] is {shorten(entry)}; write an object with {quote_some(fields)}'
        elif not fields <= entry.keys():
            kind = 'entry without a field'
            message = (
                f'{key}[{index}] (id {shorten(entry.get("id"))}) lacks {quote_some(fields - entry.keys())}; add it'
            )
        elif not is_id(entry['id']):
            kind = 'invalid id'
            message = f'{key}[{index}] has the id {shorten(entry["id"])}; write a unique integer'
        elif entry['id'] in ids:
            kind = 'duplicate id'
            message = f'id {shorten(entry["id"])} occurs twice in {key}; give each entry its own'
        if kind is None:
            ids.add(entry['id'])
            valid[index if key == 'annotations' else entry['id']] = entry
            continue
        entry_id = entry.get('id') if isinstance(entry, dict) else None
        if is_id(entry_id) and kind != 'duplicate id':
            bad_ids.add(entry_id)
        about = {'images': dict(image=entry_id), 'annotations': dict(annotation=entry_id)}.get(key, {})
        where = None if key == 'categories' else (key, index)
        issues.append(Issue(kind, f'{name}: {message}', name, **about, entry=where))
    return issues, valid, bad_ids


def validate_images(coco: dict, name: str, urls: bool = False) -> tuple[list[Issue], dict[Any, dict], set]:
    """Validates a file's list of images.

    Args:
        coco: The parsed file, in COCO format.
        name: What messages call the file.
        urls: Whether images may be named by URL.

    Returns:
        Issues; the valid images by id, with sizes as integers; ids of the others.
    """
    issues, images, bad_ids = check_entries(coco, 'images', {'id', 'file_name', 'width', 'height'}, name)
    index_of = {id(image): index for index, image in enumerate(coco['images'])}
    sound, ids_of_file = {}, {}
    for image_id, image in images.items():
        file_name, size = image['file_name'], (image['width'], image['height'])
        here, kind = f'{name}: image {shorten(image_id)} has', None
        if not isinstance(file_name, str) or not 0 < len(file_name) < MAX_PATH or '\0' in file_name:
            kind, message = 'image without a file name', f'file_name {shorten(file_name)}; write its path'
        elif not file_name.isprintable() and ('\n' in file_name or '\r' in file_name):
            kind, message = (
                'line break in a file name',
                f'a line break in file_name {shorten(file_name)}; rename the file',
            )
        elif '://' in file_name and not urls:
            kind = 'image named by a URL'
            message = f'the URL {shorten(file_name)} as file_name; download the image and write its path'
        elif not all(_is_side(side) for side in size):
            kind = 'invalid image size'
            message = f'width {shorten(size[0])} and height {shorten(size[1])}; write its size in pixels'
        if kind:
            bad_ids.add(image_id)
            issues.append(Issue(kind, f'{here} {message}', name, image_id, entry=('images', index_of[id(image)])))
            continue
        if file_name in ids_of_file:
            message = (
                f'the file {shorten(file_name)}, as image {shorten(ids_of_file[file_name])} has; '
                'list each image once, or each counts the objects of the other as background'
            )
            issues.append(Issue('image listed twice', f'{here} {message}', name, image_id, level='warning'))
        ids_of_file.setdefault(file_name, image_id)
        if not type(size[0]) is type(size[1]) is int:
            image = {**image, 'width': int(size[0]), 'height': int(size[1])}
        sound[image_id] = image
    return issues, sound, bad_ids


def read_flag(value: Any) -> int | None:
    """Returns a flag, `iscrowd` or `ignore`, as 0 or 1, or None if it is not a number."""
    if isinstance(value, str):
        value = {'0': 0, '1': 1}.get(value.strip())
    if isinstance(value, (bool, int, float)) and value == value:
        return int(bool(value))
    return None


def is_box(bbox: Any, area: Any) -> bool:
    """Returns whether a box is four finite numbers and an area one more, of a reasonable magnitude."""
    try:
        # A sum is finite only if its terms are.
        return (
            len(bbox) == 4
            and math.isfinite(sum(bbox) + area)
            and -MAX_DISTANCE < min(bbox)
            and max(bbox) < MAX_DISTANCE
            and -MAX_DISTANCE < area < MAX_DISTANCE**2
        )
    except (TypeError, OverflowError):
        return False


def unknown_id_message(value: Any, what: str, ids: Collection) -> str:
    """Returns what is wrong with an id that is not in a list of the file.

    Args:
        value: The id.
        what: `categories` or `images`.
        ids: The list's ids.
    """
    other = {str(known): known for known in ids}.get(str(value)) if is_id(value) else None
    if other is not None:
        kinds = ('text', 'numbers') if isinstance(value, str) else ('number', 'texts')
        return f"{shorten(value)}, a {kinds[0]}, but the ids of the file's {what} are {kinds[1]}; write {other!r}"
    remedy = (
        'add the category or correct the annotation'
        if what == 'categories'
        else ('add the image or remove the annotation')
    )
    return f"{shorten(value)}, which is not in the file's {what}; {remedy}"


def check_images_exist(paths: Sequence[str], name: str) -> None:
    """Checks that images exist, without opening them.

    Args:
        paths: Local image paths.
        name: The annotation file that lists them.

    Raises:
        MissingFileError: If any is missing; it names the first and how many are.
    """
    missing = find_missing(paths)
    if missing:
        first = paths[missing[0]]
        remedy = 'fetch them, or correct COCO_ROOT or data_prefix'
        if '\\' in first:
            remedy = 'write / for the backslashes in file_name'
        raise MissingFileError(
            f'{first}: image not found ({len(missing)} of {len(paths)} used from {name} are missing); {remedy}'
        )


def _is_side(side: Any) -> bool:
    return isinstance(side, (int, float)) and 0 < side < MAX_DISTANCE and side == int(side)


def _is_among(value: Any, ids: Collection) -> bool:
    return is_id(value) and value in ids


class _AnnotationValidator:
    """Validates the entries of `annotations` one by one.

    Args:
        name: What messages call the file.
        categories, images: Valid ones by id.
        bad_images: Ids of images that have an issue of their own.
        classes: `metainfo.classes`.
        masks: Whether each annotation needs a mask that can be drawn.
    """

    def __init__(self, name: str, categories: dict, images: dict, bad_images: set, classes: Sequence[str], masks: bool):
        self.name, self.categories, self.images, self.bad_images = name, categories, images, bad_images
        self.masks = masks
        self.issues: list[Issue] = []
        self.counter = LearnableCounter(categories, classes, images, name)
        self.outlines = OutlineComparer(name, masks)

    def validate(self, index: int, annotation: dict) -> dict | None:
        """Adds an annotation's issues, and returns it normalized, or None if it has an error.

        Args:
            index: Its place in the list.
            annotation: Entry with an id, image_id and category_id.
        """
        image_id, category_id = annotation['image_id'], annotation['category_id']
        self.counter.see(image_id)
        if not _is_among(category_id, self.categories):
            what = unknown_id_message(category_id, 'categories', self.categories)
            return self._refuse(index, annotation, 'unknown category', f'category_id {what}')
        if not _is_among(image_id, self.images):
            if _is_among(image_id, self.bad_images):  # whose issue is listed
                return None
            what = unknown_id_message(image_id, 'images', self.images)
            return self._refuse(index, annotation, 'unknown image', f'image_id {what}')
        crowd, ignored = (read_flag(annotation.get(key, 0)) for key in ('iscrowd', 'ignore'))
        if crowd is None or ignored is None:
            key = 'iscrowd' if crowd is None else 'ignore'
            what = f'{key} {shorten(annotation[key])} (image {shorten(image_id)}); write the number 0 or 1'
            return self._refuse(index, annotation, 'invalid flag', what)
        if annotation.get('iscrowd') is not crowd or annotation.get('ignore', 0) is not ignored:
            annotation = {**annotation, 'iscrowd': crowd}
            if 'ignore' in annotation:
                annotation['ignore'] = ignored
        image = self.images[image_id]
        if ignored:  # MMDetection skips the annotation before it reads the box
            return self._strip_ignored(annotation, image)
        problem = self._find_box_problem(annotation) or self._find_mask_problem(annotation, image)
        if problem:
            if problem[0] == 'negative box':
                self.counter.add(annotation, image, NEGATIVE)
            return self._refuse(index, annotation, *problem)
        return self._normalize(annotation, image, crowd)

    def _refuse(self, index: int, annotation: dict, kind: str, what: str) -> None:
        self._add(annotation, kind, what, 'error', ('annotations', index))

    def _add(self, annotation: dict, kind: str, what: str, level: str, entry: tuple[str, int] | None = None) -> None:
        message = f'{self.name}: annotation {shorten(annotation["id"])} has {what}'
        about = annotation['image_id'], annotation['id']
        self.issues.append(Issue(kind, message, self.name, *about, level, entry))

    def _strip_ignored(self, annotation: dict, image: dict) -> dict:
        """Returns an ignored annotation without what cannot be read of it."""
        self.counter.add(annotation, image, 'ignored')
        invalid = set()
        if not is_box(annotation.get('bbox'), annotation.get('area')):
            invalid = {'bbox', 'area'}
        if find_mask_problem(annotation.get('segmentation'), image['height'], image['width']):
            invalid.add('segmentation')
        return {key: value for key, value in annotation.items() if key not in invalid}

    def _find_box_problem(self, annotation: dict) -> tuple[str, str] | None:
        bbox, area = annotation.get('bbox'), annotation.get('area')
        if not is_box(bbox, area):
            return 'invalid box', (
                f'bbox {shorten(bbox)} and area {shorten(area)} (image {shorten(annotation["image_id"])}); '
                'write four finite numbers [x, y, width, height] and one, in pixels'
            )
        if bbox[2] < 0 or bbox[3] < 0:
            return 'negative box', f'the box {shorten(bbox)} of negative size; write [x, y, width, height]'
        return None

    def _find_mask_problem(self, annotation: dict, image: dict) -> tuple[str, str] | None:
        if not self.masks:
            return None
        problem = find_mask_problem(annotation.get('segmentation'), image['height'], image['width'])
        if problem is None:
            return None
        what = f'{problem[1]} (image {shorten(image["id"])}); export its mask again, or remove it'
        return problem[0], what

    def _normalize(self, annotation: dict, image: dict, crowd: int) -> dict:
        """Returns a valid annotation as it is trained with, and adds warnings."""
        segmentation = annotation.get('segmentation')
        if not self.masks and self.outlines.compared >= MAX_COMPARED:
            segmentation = None
        elif segmentation:
            if not self.masks and find_mask_problem(segmentation, image['height'], image['width']):
                segmentation = None
            elif isinstance(segmentation, list) and any(map(is_short, segmentation)):
                kept = [polygon for polygon in segmentation if not is_short(polygon)]
                number = f'{len(segmentation) - len(kept)} of {len(segmentation)}'
                what = f'{number} polygons of fewer than three points, which are left out'
                self._add(annotation, 'polygon of fewer than three points', what, 'warning')
                segmentation = kept
            if segmentation is not annotation['segmentation']:
                annotation = {**annotation, 'segmentation': segmentation or []}
        compared = segmentation and not crowd and min(annotation['bbox'][2:]) >= 1
        fits = not compared or self.outlines.add(annotation, image)
        bbox, area, size = annotation['bbox'], annotation['area'], f'{image["width"]} x {image["height"]} px'
        x, y, width, height = bbox
        reason = 'ignored' if crowd else ''
        if width < 1 or height < 1:
            reason, what = 'smaller than a pixel', f'the box {shorten(bbox)}, smaller than a pixel; it is left out'
            self._add(annotation, 'box without size', what, 'warning')
        elif x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
            reason, what = 'outside their images', f'the box {shorten(bbox)} outside its {size}; it is left out'
            self._add(annotation, 'box outside the image', what, 'warning')
        elif area <= 0:
            reason, what = 'without area', f'the area {shorten(area)}; it is left out, so write its area in px'
            self._add(annotation, 'no area', what, 'warning')
        else:
            beyond = max(-x, -y, x + width - image['width'], y + height - image['height'])
            if beyond > SLACK and fits:  # else it is the mask's issue
                what = f'the box {shorten(bbox)}, which extends {beyond:g} px beyond its {size}; check both'
                self._add(annotation, 'box beyond the image', what, 'warning')
        self.counter.add(annotation, image, reason, bbox)
        return {**annotation, 'ignore': 1} if reason not in ('', 'ignored') else annotation
