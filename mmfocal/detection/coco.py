"""COCO-format data that is checked before training starts, and whether model and evaluator are of its classes."""
import os.path as osp

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, HOOKS, METRICS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmfocal.datasets import coco_checks
from mmfocal.errors import ConfigError, DataError, MissingFileError


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """MMDetection's `CocoDataset`, with one clear sentence for each fault of its files.

    The annotations are parsed once, as there. Nothing is looked for in folders that a remote backend serves
    (`backend_args`, URLs).

    Args:
        *args, **kwargs: As of `CocoDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file or an image that the data set uses is absent.
        DataError: If the annotation file is not JSON in COCO format, has unknown ids or boxes that are not
            numbers, or `filter_cfg` leaves no image.
        ConfigError: If `metainfo.classes` are not categories of the file, in its order.
    """

    def load_data_list(self):
        """Loads the annotations as `CocoDataset` does, after a look whether their file is there."""
        if _is_local(self.ann_file, self.backend_args):
            coco_checks.check_annotation_file(self.ann_file, self.data_root)
        return super().load_data_list()

    def COCOAPI(self, local_path):
        """Reads the annotations: what `CocoDataset` calls, here with checks between parsing and indexing."""
        annotations = coco_checks.read_annotations(local_path, self.ann_file)
        coco_checks.check_annotations(annotations, self.ann_file, self.test_mode)
        coco_checks.check_classes(self.metainfo['classes'], annotations, self.ann_file)
        coco = COCO()
        coco.dataset = annotations
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def filter_data(self):
        """Filters as `CocoDataset` does, and checks that the images that are left, and used, are there."""
        self.data_list = super().filter_data()
        if not self.data_list:
            raise DataError(f'{self.ann_file}: filter_cfg={self.filter_cfg} leaves none of its images; '
                            'loosen it, or correct metainfo.classes')
        used = self.data_list if self._indices is None else self._get_unserialized_subset(self._indices)
        # Images are loaded by the pipeline, which has backend_args of its own.
        loaders = [getattr(transform, 'backend_args', None) for transform in self.pipeline.transforms]
        if _is_local(self.data_list[0]['img_path'], self.backend_args, *loaders):
            coco_checks.check_images_exist([data_info['img_path'] for data_info in used], self.ann_file)
        return self.data_list


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
        if ann_file and _is_local(ann_file, kwargs.get('backend_args')):
            if not osp.isfile(ann_file):
                raise MissingFileError(f'{ann_file}: file not found; set ann_file of val_evaluator and test_evaluator to the '
                                       'annotation files of val_dataloader and test_dataloader')
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
        loops = {name: loop for name, loop in loops.items() if isinstance(loop, BaseLoop)}  # else configured, but not of this run
        classes = {name: tuple(loop.dataloader.dataset.metainfo['classes']) for name, loop in loops.items()}
        if len(set(classes.values())) > 1:
            raise ConfigError('metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset differ; write the same in '
                              'both, in the order of the categories of both annotation files')
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
        raise ConfigError(f'{", ".join(f"{key}={value}" for key, value in wrong.items())}: {name}_dataloader.dataset has {number} '
                          f'classes (its metainfo.classes); set num_classes={number} in each head of model')


def _check_evaluator(evaluator, dataset, name):
    image_ids = {dataset.get_data_info(index)['img_id'] for index in range(len(dataset))}
    for coco in (metric._coco_api for metric in evaluator.metrics if isinstance(metric, CocoMetric)):
        if coco and (coco.get_cat_ids(cat_names=dataset.metainfo['classes']) != dataset.cat_ids or image_ids - coco.imgs.keys()):
            raise ConfigError(f'{name}_evaluator.ann_file lacks categories or images of {name}_dataloader.dataset; name the same '
                              f'file there, {dataset.ann_file}')


def _is_local(path, *backend_args):
    return '://' not in path and all((args or {}).get('backend', 'local') == 'local' for args in backend_args)
