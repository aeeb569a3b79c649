"""COCO's panoptic segments, and a model's classes of things and of stuff, checked before training starts."""

import os.path as osp
from importlib.util import find_spec

from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.api_wrappers import COCOPanoptic
from mmdet.evaluation import CocoPanopticMetric
from mmdet.registry import DATASETS, HOOKS, METRICS
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmfocal.datasets.coco import CheckedCocoDataset
from mmfocal.datasets.validation import panoptic as panoptic_checks
from mmfocal.datasets.validation.issues import is_local
from mmfocal.errors import ConfigError, MissingFileError


@DATASETS.register_module()
class CheckedCocoPanopticDataset(CheckedCocoDataset, CocoPanopticDataset):
    """MMDetection's `CocoPanopticDataset`, with one clear sentence for each fault of its files.

    Args:
        bad_data (str): `stop` at bad data, or `skip` it in training, as in `StopOrSkip`; an image goes with
            any bad segment of it. Default: `stop`.
        *args, **kwargs: As of `CocoPanopticDataset`.

    Raises:
        MissingFileError: If the data root, the annotation file, or an image or a PNG of segments that the
            data set uses is absent.
        DataError: If the annotation file is not JSON in COCO's panoptic format or has unknown ids, or
            `filter_cfg` leaves no image.
        ConfigError: If panopticapi is not installed, or `metainfo` has other classes, things or stuff than
            the file, or in another order.
    """

    api = COCOPanoptic
    images_go_too = True  # their PNG shows all segments

    def __init__(self, *args, **kwargs):
        _require_panopticapi(type(self).__name__)  # its pipeline needs it as well
        super().__init__(*args, **kwargs)

    def check_classes(self, annotations):
        """Refuses classes, things and stuff that are not those of the parsed annotation file, in its order."""
        super().check_classes(annotations)
        panoptic_checks.check_named(self.metainfo['classes'], annotations, self.ann_file)
        panoptic_checks.check_things_and_stuff(self.metainfo, annotations['categories'], self.ann_file)

    def annotation_faults(self, annotations):
        """What in the parsed annotation file cannot be loaded: an iterator of `Fault`s."""
        return panoptic_checks.segment_faults(annotations, self.ann_file, self.test_mode)

    def filter_data(self):
        """Filters as `CocoPanopticDataset` does, and checks that the files of what is left and used exist."""
        super().filter_data()
        self._check_files('seg_map_path')
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
        for key, what, path, exists in (
            ('ann_file', 'file', ann_file, osp.isfile),
            ('seg_prefix', 'folder', seg_prefix, osp.isdir),
        ):
            if path and is_local(path, kwargs.get('backend_args')) and not exists(path):
                raise MissingFileError(
                    f'{path}: {what} not found; set {key} of val_evaluator and '
                    'test_evaluator to that of val_dataloader and test_dataloader'
                )
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
        metainfo = {
            name: loop.dataloader.dataset.metainfo for name, loop in loops.items() if isinstance(loop, BaseLoop)
        }  # else configured, but not of this run
        if len({tuple(meta['classes']) for meta in metainfo.values()}) > 1:
            raise ConfigError(
                'metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset '
                'differ; write the same in both'
            )
        for name, meta in metainfo.items():
            things, stuff = meta.get('thing_classes', meta['classes']), meta.get('stuff_classes', ())
            _check_heads(runner.model, len(things), len(stuff), name)


def _require_panopticapi(name):
    if not find_spec('panopticapi'):
        raise ConfigError(
            f'{name} needs the package panopticapi, which is not installed, and which PyPI '
            'does not have: pip install git+https://github.com/cocodataset/panopticapi.git'
        )


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
                wrong.append(
                    f'{here}.loss_cls.class_weight has {len(weights)} numbers and should have '
                    f'{things + stuff + 1}, the last for no object'
                )
        elif {'bbox_head', 'mask_head'} & set(parts):
            numbers = dict(num_classes=things)
        wrong += [
            f'{here}.{key} is {getattr(module, key)} and should be {number}'
            for key, number in numbers.items()
            if getattr(module, key, number) != number
        ]
    if wrong:
        raise ConfigError(
            f'{", ".join(wrong)}: {name}_dataloader.dataset has {things} classes of things and '
            f'{stuff} of stuff (its metainfo)'
        )
