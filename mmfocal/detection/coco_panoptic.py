"""COCO's panoptic segments, and a model's classes of things and of stuff, checked before training starts."""
import os.path as osp
from importlib.util import find_spec

from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.api_wrappers import COCOPanoptic
from mmdet.evaluation import CocoPanopticMetric
from mmdet.registry import DATASETS, HOOKS, METRICS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmfocal.datasets import coco_checks
from mmfocal.errors import ConfigError, DataError, MissingFileError
from .coco import CheckedCocoDataset, _is_local

SEGMENT = {'id', 'category_id', 'bbox', 'area', 'iscrowd'}  # what MMDetection reads of each


@DATASETS.register_module()
class CheckedCocoPanopticDataset(CheckedCocoDataset, CocoPanopticDataset):
    """MMDetection's `CocoPanopticDataset`, with one clear sentence for each fault of its files.

    Args:
        *args, **kwargs: As of `CocoPanopticDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file, or an image or a PNG of segments that the
            data set uses is absent.
        DataError: If the annotation file is not JSON in COCO's panoptic format or has unknown ids, or
            `filter_cfg` leaves no image.
        ConfigError: If panopticapi is not installed, or `metainfo` has other classes, things or stuff than
            the file, or in another order.
    """

    def __init__(self, *args, **kwargs):
        _require_panopticapi(type(self).__name__)  # its pipeline needs it as well
        super().__init__(*args, **kwargs)

    def COCOAPI(self, local_path):
        """Reads the annotations: what `CocoDataset` calls, here with checks between parsing and indexing."""
        annotations = coco_checks.read_annotations(local_path, self.ann_file)
        _check_segments(annotations, self.ann_file, self.test_mode)
        coco_checks.check_classes(self.metainfo['classes'], annotations, self.ann_file)
        _check_things_and_stuff(self.metainfo, annotations['categories'], self.ann_file)
        coco = COCOPanoptic()
        coco.dataset = annotations
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def filter_data(self):
        """Filters as `CocoPanopticDataset` does, and checks that the files of what is left and used exist."""
        super().filter_data()
        used = self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)
        paths = [data_info['seg_map_path'] for data_info in used if data_info['seg_map_path']]
        loaders = [getattr(transform, 'backend_args', None) for transform in self.pipeline.transforms]
        if paths and _is_local(paths[0], self.backend_args, *loaders):
            coco_checks.check_images_exist(paths, self.ann_file)
        return self.data_list


@METRICS.register_module()
class CheckedCocoPanopticMetric(CocoPanopticMetric):
    """MMDetection's `CocoPanopticMetric`, with one clear sentence for what is absent.

    Args:
        ann_file (str, optional): The data set's annotation file. Default: none, segments come with images.
        seg_prefix (str, optional): The folder of the data set's PNGs. Default: none.
        *args, **kwargs: As of `CocoPanopticMetric`.

    Raises:
        ConfigError: If panopticapi is not installed.
        MissingFileError: If the file or the folder is absent.
    """
    tmp_dir = None  # MMDetection's __del__ asks for it, whatever has failed before

    def __init__(self, ann_file=None, seg_prefix=None, *args, **kwargs):
        _require_panopticapi(type(self).__name__)
        for key, what, path, exists in (('ann_file', 'file', ann_file, osp.isfile),
                                        ('seg_prefix', 'folder', seg_prefix, osp.isdir)):
            if path and _is_local(path, kwargs.get('backend_args')) and not exists(path):
                raise MissingFileError(f'{path}: {what} not found; set {key} of val_evaluator and '
                                       'test_evaluator to that of val_dataloader and test_dataloader')
        super().__init__(ann_file, seg_prefix, *args, **kwargs)


@HOOKS.register_module()
class CheckPanopticClassesHook(Hook):
    """Checks, before anything is trained or tested, that heads have the data sets' things and stuff.

    Raises:
        ConfigError: If a head has another number of either than a data set, or data sets have different
            classes.
    """

    def before_run(self, runner):
        """Checks the loops that this run has."""
        loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
        metainfo = {name: loop.dataloader.dataset.metainfo for name, loop in loops.items()
                    if isinstance(loop, BaseLoop)}  # else configured, but not of this run
        if len({tuple(meta['classes']) for meta in metainfo.values()}) > 1:
            raise ConfigError('metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset '
                              'differ; write the same in both')
        for name, meta in metainfo.items():
            things, stuff = meta.get('thing_classes', meta['classes']), meta.get('stuff_classes', ())
            _check_heads(runner.model, len(things), len(stuff), name)


def _require_panopticapi(name):
    if not find_spec('panopticapi'):
        raise ConfigError(f'{name} needs the package panopticapi, which is not installed, and which PyPI '
                          'does not have: pip install git+https://github.com/cocodataset/panopticapi.git')


def _check_segments(coco, name, test_mode):
    """Refuses what is not COCO's panoptic format; to test, annotations may be absent, as in test-dev's."""
    coco_checks.check_annotations({**coco, 'annotations': []} if isinstance(coco, dict) else coco, name)
    category_ids = {category['id'] for category in coco['categories']}
    image_ids = {image['id'] for image in coco['images']}
    annotations = coco.get('annotations', [] if test_mode else None)
    if not isinstance(annotations, list):
        raise DataError(f"{name}: has no list of 'annotations'; name a file in COCO's panoptic format")
    for index, annotation in enumerate(annotations):
        image_id, segments = (annotation.get(key) for key in ('image_id', 'segments_info'))
        if image_id is None or not isinstance(segments, list):
            raise DataError(f'{name}: annotations[{index}] lacks its image_id or its list of segments_info; '
                            "name a file in COCO's panoptic format, such as panoptic_train2017.json")
        if image_id not in image_ids:
            raise DataError(f'{name}: annotations[{index}] has image_id {image_id!r}, which is not in the '
                            "file's images; add the image or remove the annotation")
        for segment in segments:
            if not SEGMENT <= segment.keys():
                raise DataError(f'{name}: a segment of image {image_id!r} is {segment!r}; write an object '
                                f'with {", ".join(sorted(SEGMENT))}')
            if segment['category_id'] not in category_ids:
                raise DataError(f'{name}: segment {segment["id"]!r} of image {image_id!r} has category_id '
                                f"{segment['category_id']!r}, which is not in the file's categories; "
                                'add the category or correct the segment')


def _check_things_and_stuff(metainfo, categories, name):
    """Checks both kinds of classes against the file's: MMDetection numbers things from 0, and stuff after."""
    kinds = {True: [], False: []}
    for category in categories:
        if 'isthing' not in category:
            raise DataError(f'{name}: category {category["id"]!r} lacks isthing; add it, 1 for things or 0 '
                            'for stuff')
        if category['name'] in metainfo['classes']:
            kinds[bool(category['isthing'])].append(category['name'])
    for key, kind in (('thing_classes', True), ('stuff_classes', False)):
        if list(metainfo[key]) != kinds[kind]:
            raise ConfigError(f'metainfo.{key}: {name} has isthing={kind:d} for others of metainfo.classes, '
                              f'or has them in another order; write {key}={tuple(kinds[kind])!r}')
    if list(metainfo['classes']) != kinds[True] + kinds[False]:
        raise DataError(f'{name}: has a category of stuff before one of things; list all things first')


def _check_heads(model, things, stuff, name):
    wrong = []
    for module_name, module in model.named_modules():
        parts = [part for part in module_name.split('.') if part not in ('', 'module')]  # of wrappers
        if not parts:
            continue
        here = '.'.join(['model', *parts])
        numbers = {}
        if hasattr(module, 'num_things_classes'):
            numbers = dict(num_things_classes=things, num_stuff_classes=stuff)
            weights = getattr(module, 'class_weight', None)
            if weights and len(weights) != things + stuff + 1:
                wrong.append(f'{here}.loss_cls.class_weight has {len(weights)} numbers and should have '
                             f'{things + stuff + 1}, the last for no object')
        elif {'bbox_head', 'mask_head'} & set(parts):
            numbers = dict(num_classes=things)
        wrong += [f'{here}.{key} is {getattr(module, key)} and should be {number}'
                  for key, number in numbers.items() if getattr(module, key, number) != number]
    if wrong:
        raise ConfigError(f'{", ".join(wrong)}: {name}_dataloader.dataset has {things} classes of things and '
                          f'{stuff} of stuff (its metainfo)')
