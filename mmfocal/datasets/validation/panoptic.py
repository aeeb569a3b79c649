"""Checks of COCO's panoptic format, each fault one sentence: what is wrong, in which file, what to do."""

from mmfocal.datasets.validation import annotations as coco_checks
from mmfocal.datasets.validation.issues import Fault, short
from mmfocal.errors import ConfigError, DataError

SEGMENT = {'id', 'category_id', 'bbox', 'area', 'iscrowd'}  # what MMDetection reads of each


def segment_faults(coco, name, test_mode=False):
    """Looks for all that MMDetection could not load in an annotation file of panoptic segments.

    Args:
        coco (dict): The parsed file.
        name (str): What sentences call the file.
        test_mode (bool): Whether `annotations` may be absent, as in test-dev's files. Default: False.

    Yields:
        Fault: Each fault; the entry to leave out is the whole of an image's segments, since its PNG shows
        all of them.

    Raises:
        DataError: If it is not in COCO's panoptic format at all.
    """
    yield from coco_checks.annotation_faults({**coco, 'annotations': []} if isinstance(coco, dict) else coco, name)
    category_ids = _ids(coco['categories'])
    image_ids = _ids(coco['images'])
    annotations = coco.get('annotations', [] if test_mode else None)
    if not isinstance(annotations, list):
        raise DataError(f"{name}: has no list of 'annotations'; name a file in COCO's panoptic format")
    for index, annotation in enumerate(annotations):
        entry = 'annotations', index
        image_id, segments = (
            (annotation.get(key) for key in ('image_id', 'segments_info'))
            if isinstance(annotation, dict)
            else (None, None)
        )
        if not coco_checks.is_id(image_id) or not isinstance(segments, list):
            yield Fault(
                'entry without a field',
                f'{name}: annotations[{index}] lacks its image_id or its list of '
                "segments_info; name a file in COCO's panoptic format, such as panoptic_train2017.json",
                name,
                entry=entry,
            )
        elif image_id not in image_ids:
            yield Fault(
                'unknown image',
                f'{name}: annotations[{index}] has image_id {short(image_id)}, which is '
                "not in the file's images; add the image or remove the annotation",
                name,
                image_id,
                entry=entry,
            )
        else:
            numbers = set()
            for segment in segments:
                kind, sentence = _segment_fault(segment, category_ids, numbers, f'image {short(image_id)}')
                if kind:
                    about = segment.get('id') if isinstance(segment, dict) else None
                    yield Fault(kind, f'{name}: {sentence}', name, image_id, about, entry=entry)
                else:
                    numbers.add(segment['id'])


def check_things_and_stuff(metainfo, categories, name):
    """Checks both kinds of classes against the file's: MMDetection numbers things from 0, and stuff after.

    Args:
        metainfo (dict): With classes, thing_classes and stuff_classes.
        categories (list[dict]): The file's, checked.
        name (str): What errors call the file.

    Raises:
        DataError: If a category does not say whether it is a thing, or stuff stands before things.
        ConfigError: If `metainfo` has other things or stuff, or in another order.
    """
    kinds = {True: [], False: []}
    for category in categories:
        if 'isthing' not in category:
            raise DataError(f'{name}: category {category["id"]!r} lacks isthing; add it, 1 for things or 0 for stuff')
        if category['name'] in metainfo['classes']:
            kinds[bool(category['isthing'])].append(category['name'])
    for key, kind in (('thing_classes', True), ('stuff_classes', False)):
        if list(metainfo[key]) != kinds[kind]:
            raise ConfigError(
                f'metainfo.{key}: {name} has isthing={kind:d} for others of metainfo.classes, '
                f'or has them in another order; write {key}={tuple(kinds[kind])!r}'
            )
    if list(metainfo['classes']) != kinds[True] + kinds[False]:
        raise DataError(f'{name}: has a category of stuff before one of things; list all things first')


def check_named(classes, coco, name):
    """Refuses classes that leave out a category which segments have: MMDetection would have no label for them.

    Args:
        classes (Sequence[str]): `metainfo.classes`.
        coco (dict): The parsed file; its categories checked, its segments perhaps not.
        name (str): What errors call the file.

    Raises:
        ConfigError: If one is left out.
    """
    unnamed = {category['id']: category['name'] for category in coco['categories'] if category['name'] not in classes}
    for annotation in coco.get('annotations', ()) if unnamed else ():
        segments = annotation.get('segments_info') if isinstance(annotation, dict) else None
        for segment in segments if isinstance(segments, list) else ():
            category_id = segment.get('category_id') if isinstance(segment, dict) else None
            if coco_checks.is_id(category_id) and category_id in unnamed:
                raise ConfigError(
                    f'metainfo.classes lacks {short(unnamed[category_id])}, of which {name} has '
                    'segments; name it, or take those segments out of the file'
                )


def _segment_fault(segment, category_ids, numbers, here):
    if not isinstance(segment, dict) or not SEGMENT <= segment.keys():
        return 'segment without a field', (
            f'a segment of {here} is {short(segment)}; write an object with {", ".join(sorted(SEGMENT))}'
        )
    number, category_id = segment['id'], segment['category_id']
    if not isinstance(number, int) or number in numbers:
        return 'duplicate id', (
            f"{here} has a segment with the id {short(number)}; write a whole number, the segment's own"
        )
    if not coco_checks.is_id(category_id) or category_id not in category_ids:
        return 'unknown category', (
            f'segment {number} of {here} has category_id {short(category_id)}, which is not '
            "in the file's categories; add the category or correct the segment"
        )
    if not coco_checks.is_box(segment['bbox'], segment['area']):
        return 'box that is not numbers', (
            f'segment {number} of {here} has bbox {short(segment["bbox"])} and area {short(segment["area"])}; '
            'write four finite numbers [x, y, width, height] and one, in pixels'
        )
    return None, None


def _ids(entries):
    return {entry['id'] for entry in entries if isinstance(entry, dict) and coco_checks.is_id(entry.get('id'))}
