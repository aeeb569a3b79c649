"""COCO-format data that is checked before training starts, and whether model and evaluator are of its classes."""

import logging
import os.path as osp

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, HOOKS, METRICS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop

from mmfocal.datasets.validation import annotations as coco_checks
from mmfocal.datasets.validation import report as check
from mmfocal.datasets.validation.issues import StopOrSkip, is_local, missing, summary
from mmfocal.errors import ConfigError, DataError, MissingFileError


@DATASETS.register_module()
class CheckedCocoDataset(StopOrSkip, CocoDataset):
    """MMDetection's `CocoDataset`, with one clear sentence for each fault of its files.

    The annotations are parsed once, as there. Nothing is looked for in folders that a remote backend serves
    (`backend_args`, URLs).

    Args:
        bad_data (str): `stop` at bad data, or `skip` it in training, as in `StopOrSkip`. Default: `stop`.
        *args, **kwargs: As of `CocoDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file or an image that the data set uses is absent.
        DataError: If the annotation file is not JSON in COCO format, has unknown ids, boxes that are not
            numbers or, where the pipeline loads them, masks that cannot be drawn, `filter_cfg` leaves no
            image, or an image is damaged or not of its recorded size.
        ConfigError: If `metainfo.classes` are not categories of the file, in its order.
    """

    api = COCO
    images_go_too = False  # with a bad annotation

    def load_data_list(self):
        """Loads the annotations as `CocoDataset` does, after a look whether their file is there."""
        if is_local(self.ann_file, self.backend_args):
            coco_checks.check_annotation_file(self.ann_file, self.data_root)
        return super().load_data_list()

    def COCOAPI(self, local_path):
        """Reads the annotations: what `CocoDataset` calls, here with checks between parsing and indexing."""
        annotations = self._sound(coco_checks.read_annotations(local_path, self.ann_file))
        self.check_classes(annotations)
        coco = self.api()
        coco.dataset = annotations
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def annotation_faults(self, annotations):
        """What in the parsed annotation file cannot be loaded: an iterator of `Fault`s."""
        masks = any(getattr(transform, 'with_mask', False) for transform in self.pipeline.transforms)
        return coco_checks.annotation_faults(annotations, self.ann_file, self.test_mode, masks)

    def check_classes(self, annotations):
        """Refuses classes that are not those of the parsed annotation file, in its order."""
        coco_checks.check_classes(self.metainfo['classes'], annotations, self.ann_file)

    def find_faults(self):
        """All faults of the annotations, and checks of the files, for `tools/check_dataset.py`."""
        return check.coco_faults(self)

    def _sound(self, annotations):
        """The annotations, or those without faults."""
        for fault in self.annotation_faults(annotations):
            if not self._skips():
                raise DataError(fault.sentence)
            faults = list(self.annotation_faults(annotations))
            print_log(summary(faults), 'current', logging.WARNING)
            return coco_checks.leave_out(annotations, faults, self.images_go_too)
        return annotations

    def filter_data(self):
        """Filters as `CocoDataset` does, and checks that the images that are left, and used, are there."""
        self.data_list = super().filter_data()
        if not self.data_list:
            raise DataError(
                f'{self.ann_file}: filter_cfg={self.filter_cfg} leaves none of its images; '
                'loosen it, or correct metainfo.classes'
            )
        self._check_files('img_path')
        return self.data_list

    def _check_files(self, key):
        """Refuses images that are absent, or leaves them out."""
        used = self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)
        paths = [data_info[key] for data_info in used if data_info[key]]
        if not paths or not self._reads_locally(paths[0]):
            return
        absent = set(missing(paths)) if self._skips() else ()
        if len(absent) in (0, len(paths)):
            coco_checks.check_images_exist(paths, self.ann_file)
        elif self._indices is None:  # else other images would move to those places; loading will skip them
            bad = {paths[index] for index in absent}
            print_log(
                f"bad_data='skip' leaves out {len(bad)} of {len(paths)} images of {self.ann_file}, whose "
                f'files are missing; the first: {paths[min(absent)]}',
                'current',
                logging.WARNING,
            )
            self.data_list = [data_info for data_info in self.data_list if data_info[key] not in bad]


@METRICS.register_module()
class CheckedCocoMetric(CocoMetric):
    """MMDetection's `CocoMetric`, with the data set's checks of the annotation file.

    Args:
        ann_file (str, optional): The data set's annotation file. Default: none, the annotations come with the images.
        *args, **kwargs: As of `CocoMetric`.

    Raises:
        MissingFileError: If the annotation file is absent.
        DataError: If it is not JSON in COCO format, or has unknown ids or boxes that are not numbers.
    """

    def __init__(self, ann_file=None, *args, **kwargs):
        if ann_file and is_local(ann_file, kwargs.get('backend_args')):
            if not osp.isfile(ann_file):
                raise MissingFileError(
                    f'{ann_file}: file not found; set ann_file of val_evaluator and test_evaluator to the '
                    'annotation files of val_dataloader and test_dataloader'
                )
            coco_checks.check_annotations(coco_checks.read_annotations(ann_file, ann_file), ann_file, test_mode=True)
        super().__init__(ann_file, *args, **kwargs)


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Checks, before anything is trained or tested, that the model's heads and the evaluators have the data sets' classes.

    Raises:
        ConfigError: If a box or mask head has another number of classes than a data set, data sets have different classes,
            or an evaluator's annotation file lacks images or categories of its data set.
    """

    def before_run(self, runner):
        """Checks the loops that this run has."""
        loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
        loops = {
            name: loop for name, loop in loops.items() if isinstance(loop, BaseLoop)
        }  # else configured, but not of this run
        classes = {name: tuple(loop.dataloader.dataset.metainfo['classes']) for name, loop in loops.items()}
        if len(set(classes.values())) > 1:
            raise ConfigError(
                'metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset differ; write the same in '
                'both, in the order of the categories of both annotation files'
            )
        for name, loop in loops.items():
            _check_heads(runner.model, len(classes[name]), name)
            if name != 'train' and isinstance(loop.dataloader.dataset, CocoDataset):
                _check_evaluator(loop.evaluator, loop.dataloader.dataset, name)


def _check_heads(model, number, name):
    wrong = {}
    for module_name, module in model.named_modules():
        parts = [part for part in module_name.split('.') if part != 'module']  # of wrappers
        if {'bbox_head', 'mask_head'} & set(parts) and getattr(module, 'num_classes', number) != number:
            wrong['.'.join(['model', *parts, 'num_classes'])] = module.num_classes
    if wrong:
        raise ConfigError(
            f'{", ".join(f"{key}={value}" for key, value in wrong.items())}: {name}_dataloader.dataset has {number} '
            f'classes (its metainfo.classes); set num_classes={number} in each head of model'
        )


def _check_evaluator(evaluator, dataset, name):
    image_ids = {dataset.get_data_info(index)['img_id'] for index in range(len(dataset))}
    for coco in (metric._coco_api for metric in evaluator.metrics if isinstance(metric, CocoMetric)):
        if coco and (
            coco.get_cat_ids(cat_names=dataset.metainfo['classes']) != dataset.cat_ids or image_ids - coco.imgs.keys()
        ):
            raise ConfigError(
                f'{name}_evaluator.ann_file lacks categories or images of {name}_dataloader.dataset; name the same '
                f'file there, {dataset.ann_file}'
            )
