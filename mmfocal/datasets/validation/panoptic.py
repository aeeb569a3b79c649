"""Issues of annotation files in COCO's panoptic format."""

from typing import Any

from mmfocal.datasets.validation.annotations import (
    check_entries,
    find_format_issues,
    is_box,
    read_flag,
    unknown_id_message,
    validate_images,
)
from mmfocal.datasets.validation.categories import find_kind_issues, match_categories
from mmfocal.datasets.validation.issues import Issue, errors_of, is_id, quote_some, shorten
from mmfocal.errors import ConfigError

SEGMENT_FIELDS = {'id', 'category_id', 'bbox', 'area'}  # what MMDetection reads of each segment


def validate_panoptic(
    coco: Any, name: str, metainfo: dict, *, test_mode: bool = False, default_classes: bool = False
) -> tuple[list[Issue], dict | None]:
    """Finds all issues of an annotation file of panoptic segments, and normalizes what is sound.

    Args:
        coco: The parsed file.
        name: What messages call the file.
        metainfo: With `classes`, `thing_classes` and `stuff_classes`.
        test_mode: Whether `annotations` may be absent, as in test-dev's files.
        default_classes: Whether `metainfo` is the data set's own, which the config does not override.

    Returns:
        Issues, and the file without the entries of errors: categories in the order of `classes` with integers as ids,
        flags as numbers. None if the file is not in COCO format.
    """
    issues = find_format_issues(coco, name, test_mode)
    if issues:
        return issues, None
    found, categories, _ = check_entries(coco, 'categories', {'id', 'name'}, name)
    issues += found
    found, ordered = match_categories(list(categories.values()), metainfo['classes'], name, test_mode, default_classes)
    issues += found
    if not errors_of(found):
        things = metainfo.get('thing_classes', ())
        ordered = [
            category if category['id'] in categories else {**category, 'isthing': int(category['name'] in things)}
            for category in ordered
        ]
        issues += find_kind_issues(metainfo, ordered, name)
    found, images, bad_images = validate_images(coco, name)
    issues += found
    annotations = []
    unnamed: dict = {}
    for index, annotation in enumerate(coco.get('annotations', ())):
        found, annotation = _validate_entry(annotation, index, name, categories, images, bad_images)
        issues += found
        if annotation is None:
            continue
        annotations.append(annotation)
        for segment in annotation['segments_info']:
            if categories[segment['category_id']]['name'] not in metainfo['classes']:
                unnamed[segment['category_id']] = categories[segment['category_id']]['name']
    if unnamed:
        message = (
            f'metainfo.classes lacks {quote_some(unnamed.values())}, of which {name} has segments; '
            'add it, or remove those segments from the file'
        )
        issues.append(Issue('classes', message, name, error=ConfigError))
    ordered, annotations = _number_categories(ordered, annotations)
    return issues, {**coco, 'images': list(images.values()), 'categories': ordered, 'annotations': annotations}


def _number_categories(categories: list[dict], annotations: list[dict]) -> tuple[list[dict], list[dict]]:
    """Returns categories and annotations with integers as category ids, which MMDetection needs here."""
    if all(type(category['id']) is int for category in categories):
        return categories, annotations
    numbers = {category['id']: number for number, category in enumerate(categories, 1)}
    numbered = [
        {
            **annotation,
            'segments_info': [
                {**segment, 'category_id': numbers[segment['category_id']]} for segment in annotation['segments_info']
            ],
        }
        for annotation in annotations
    ]
    return [{**category, 'id': numbers[category['id']]} for category in categories], numbered


def _validate_entry(
    annotation: Any, index: int, name: str, categories: dict, images: dict, bad_images: set
) -> tuple[list[Issue], dict | None]:
    """Returns the issues of an image's segments, and the entry normalized, or None if it has an error."""
    entry = 'annotations', index
    fields = ('image_id', 'segments_info')
    image_id, segments = (annotation.get(key) if isinstance(annotation, dict) else None for key in fields)
    if not is_id(image_id) or not isinstance(segments, list):
        message = (
            f'{name}: annotations[{index}] lacks its image_id or its list of segments_info; '
            "name a file in COCO's panoptic format, such as panoptic_train2017.json"
        )
        return [Issue('entry without a field', message, name, entry=entry)], None
    if image_id not in images:
        if image_id in bad_images:  # whose issue is listed
            return [], None
        message = f'{name}: annotations[{index}] has image_id {unknown_id_message(image_id, "images", images)}'
        return [Issue('unknown image', message, name, image_id, entry=entry)], None
    issues: list[Issue] = []
    sound: list[dict] = []
    ids: set[int] = set()
    for segment in segments:
        here = f'image {shorten(image_id)}'
        kind, message = _find_segment_problem(segment, categories, ids, here)
        if kind:
            about = segment.get('id') if isinstance(segment, dict) else None
            issues.append(Issue(kind, f'{name}: {message}', name, image_id, about, entry=entry))
            continue
        ids.add(segment['id'])
        crowd, (_, _, width, height) = read_flag(segment.get('iscrowd', 0)), segment['bbox']
        left_out = segment['area'] <= 0 or width < 1 or height < 1  # by MMDetection in training, so a metric ignores it
        sound.append({**segment, 'iscrowd': int(crowd or left_out)})
    return issues, None if issues else {**annotation, 'segments_info': sound}


def _find_segment_problem(segment: Any, categories: dict, ids: set, here: str) -> tuple[str, str] | tuple[None, None]:
    if not isinstance(segment, dict) or not SEGMENT_FIELDS <= segment.keys():
        fields = ', '.join(sorted(SEGMENT_FIELDS))
        return 'segment without a field', f'a segment of {here} is {shorten(segment)}; write an object with {fields}'
    number, category_id = segment['id'], segment['category_id']
    if not isinstance(number, int) or number in ids:
        return 'duplicate id', f'{here} has a segment with the id {shorten(number)}; write a unique integer'
    if not is_id(category_id) or category_id not in categories:
        what = unknown_id_message(category_id, 'categories', categories).replace('the annotation', 'the segment')
        return 'unknown category', f'segment {number} of {here} has category_id {what}'
    if read_flag(segment.get('iscrowd', 0)) is None:
        flag = shorten(segment['iscrowd'])
        return 'invalid flag', f'segment {number} of {here} has iscrowd {flag}; write the number 0 or 1'
    if not is_box(segment['bbox'], segment['area']):
        return 'invalid box', (
            f'segment {number} of {here} has bbox {shorten(segment["bbox"])} and area {shorten(segment["area"])}; '
            'write four finite numbers [x, y, width, height] and one, in pixels'
        )
    return None, None
