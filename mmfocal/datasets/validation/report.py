"""All faults of a data set, not only the first: what `tools/check_dataset.py` lists."""

import os.path as osp
from collections import Counter
from functools import partial

from mmfocal.datasets.validation import annotations as coco_checks
from mmfocal.datasets.validation import images as image_checks
from mmfocal.datasets.validation.issues import Fault, is_local, missing, short
from mmfocal.datasets.validation.masks import mask_fault, short_polygons
from mmfocal.errors import ConfigError, DataError, MissingFileError

SLACK = 1  # px that a box may stand out of its image without a word


def coco_faults(dataset):
    """Reads a COCO-format data set's annotations.

    Args:
        dataset (CheckedCocoDataset | CheckedCocoPanopticDataset): It may be yet to load.

    Returns:
        tuple: A list of `Fault`s, and a list of checks of files: functions without arguments, which can be
        sent to another process, and return lists of `Fault`s.
    """
    name = dataset.ann_file
    faults = []
    try:
        _require_local(dataset, name)
        coco_checks.check_annotation_file(name, dataset.data_root)
        coco = coco_checks.read_annotations(name, name)
        faults += dataset.annotation_faults(coco)
    except (DataError, MissingFileError) as error:
        return [*faults, Fault('annotation file', str(error), name)], []
    if all(fault.entry for fault in faults):  # else there are categories that have no name
        try:
            dataset.check_classes(coco)
        except (ConfigError, DataError) as error:
            faults.append(Fault('classes', str(error), name))
    bad = {fault.entry for fault in faults}
    images = {image['id']: image for index, image in enumerate(coco['images']) if ('images', index) not in bad}
    is_panoptic = any(isinstance(entry, dict) and 'segments_info' in entry for entry in coco.get('annotations', ()))
    annotations = {}
    for index, annotation in enumerate(coco.get('annotations', ())):
        if ('annotations', index) not in bad and annotation['image_id'] in images:
            annotations.setdefault(annotation['image_id'], []).append(annotation)
    for image_id, image in images.items():
        entries = annotations.get(image_id, [])
        if is_panoptic:
            entries = [segment for entry in entries for segment in entry['segments_info']]
        for entry in entries:
            for level, kind, what in _oddities(entry, image):
                what = f'annotation {short(entry["id"])} (image {short(image_id)}) has {what}'
                faults.append(Fault(kind, f'{name}: {what}', name, image_id, entry['id'], level))
        if not entries and coco.get('annotations'):
            faults.append(
                Fault(
                    'image without annotations',
                    f'{name}: image {short(image_id)} has no annotations; '
                    'filter_cfg=dict(filter_empty_gt=True) leaves such out of training',
                    name,
                    image_id,
                    level='note',
                )
            )
    return faults, _coco_files(dataset, images, annotations, is_panoptic)


def label_map_faults(dataset):
    """Lists a data set's images and label maps.

    Args:
        dataset (CheckedLabelMaps): It may be yet to load.

    Returns:
        tuple: As of `coco_faults`.
    """
    try:
        _require_local(dataset, dataset.data_root or '')
        data_list = dataset.load_data_list()
    except (DataError, MissingFileError) as error:
        return [Fault('folder', str(error), dataset.ann_file or dataset.data_root)], []
    checks = []
    for data_info in data_list:
        path, label_path = data_info['img_path'], data_info.get('seg_map_path')
        checks.append(partial(image_checks.image_faults, path))
        if label_path:
            num_classes = len(dataset.label_map or ()) or data_info['num_classes']
            checks.append(
                partial(
                    image_checks.label_map_faults,
                    label_path,
                    path,
                    num_classes,
                    int(data_info['reduce_zero_label']),
                    data_info['ignore_index'],
                )
            )
    return [], checks


def absent_files(checks):
    """What is missing or empty, without decoding anything.

    Args:
        checks (Sequence): Of `coco_faults` or `label_map_faults`.

    Returns:
        list[Fault]: An error for each such file.
    """
    paths = [check.args[0] for check in checks]
    absent = set(missing(paths))
    faults = []
    for index, (path, check) in enumerate(zip(paths, checks)):
        if index in absent or not osp.getsize(path):
            faults += [fault for fault in check() if fault.file == path]
    return faults


def counts(faults):
    """How many faults there are of each kind.

    Args:
        faults (Sequence[Fault]): The faults.

    Returns:
        dict: By level, `error` first, a dict of numbers by kind, the most frequent first.
    """
    return {
        level: dict(Counter(fault.kind for fault in faults if fault.level == level).most_common())
        for level in ('error', 'warning', 'note')
    }


def _require_local(dataset, path):
    if not is_local(path, dataset.backend_args):
        raise DataError(f'{path}: is not on this machine; fetch the data set to check it')


def _oddities(annotation, image):
    """What MMDetection copes with, mostly by leaving out the annotation without a word."""
    if annotation.get('ignore'):
        return
    (x, y, width, height), area = annotation['bbox'], annotation['area']
    over = max(-x, -y, x + width - image['width'], y + height - image['height'])
    box = f'the box {short(annotation["bbox"])}'
    if width < 0 or height < 0:
        yield 'error', 'negative box', f'{box} of negative size, and is left out; write [x, y, width, height]'
    elif width < 1 or height < 1:
        yield 'warning', 'box without size', f'{box}, which is smaller than a pixel, and is left out'
    elif x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
        yield (
            'warning',
            'box outside the image',
            (f'{box} outside its {image["width"]} x {image["height"]} px, and is left out'),
        )
    elif over > SLACK:
        yield (
            'warning',
            'box beyond the image',
            (
                f'{box}, which goes {over:g} px beyond its {image["width"]} x {image["height"]} px; see whether the '
                'recorded size is right'
            ),
        )
    if area <= 0:
        yield 'warning', 'no area', f'the area {short(area)}, and is left out'
    segmentation = annotation.get('segmentation')
    if segmentation:
        fault = mask_fault(segmentation, image['height'], image['width'])
        if fault:
            yield 'error', fault[0], f'{fault[1]}; export its mask again'
        elif short_polygons(segmentation):
            yield (
                'warning',
                'polygon of fewer than three points',
                (
                    f'{short_polygons(segmentation)} of {len(segmentation)} polygons of fewer than three points, which '
                    'are left out'
                ),
            )


def _coco_files(dataset, images, annotations, is_panoptic):
    checks = []
    for image_id, image in images.items():
        size = image['height'], image['width']
        checks.append(
            partial(image_checks.image_faults, osp.join(dataset.data_prefix['img'], image['file_name']), image_id, size)
        )
        if is_panoptic and dataset.data_prefix.get('seg'):
            numbers = [segment['id'] for entry in annotations.get(image_id, []) for segment in entry['segments_info']]
            path = osp.join(dataset.data_prefix['seg'], image['file_name'].replace('.jpg', '.png'))
            checks.append(partial(image_checks.segment_map_faults, path, image_id, size, numbers))
    return checks
