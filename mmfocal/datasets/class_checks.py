"""Whether a model's heads and the evaluators fit the classes of the data sets."""

import os.path as osp
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmfocal.datasets.validation.issues import Issue, raise_first_error
from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.errors import ConfigError
from mmfocal.models.wrappers import unwrap

HEADS = {'head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head'}  # whose num_classes is the data set's


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Checks, before anything is trained or tested, that heads and evaluators fit the data sets' classes.

    Raises:
        ConfigError: If data sets have different classes; a head has another number of classes, things, stuff or class
            weights, or another ignored label; an evaluator's annotation file lacks categories or images of its data
            set; or mean IoU is to be computed without label maps.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks the loops that this run has."""
        loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
        # The others are configured, but not part of this run.
        loops = {name: loop for name, loop in loops.items() if isinstance(loop, BaseLoop)}
        datasets = [
            (name, dataset) for name, loop in loops.items() for dataset in iterate_inner(loop.dataloader.dataset)
        ]
        first = None
        for name, dataset in datasets:
            classes = dataset.metainfo.get('classes')
            if classes is None:
                continue
            first = first or (name, tuple(classes))
            if tuple(classes) != first[1]:
                raise ConfigError(
                    f'metainfo.classes of {first[0]}_dataloader.dataset and of {name}_dataloader.dataset differ; '
                    'write the same names in the same order in all data sets'
                )
            _check_heads(runner.model, dataset, name)
        for name, loop in loops.items():
            if name != 'train':
                for metric in loop.evaluator.metrics:
                    _check_metric(metric, list(iterate_inner(loop.dataloader.dataset)), name)


def _check_heads(model: nn.Module, dataset: Any, name: str) -> None:
    metainfo = dataset.metainfo
    classes = metainfo['classes']
    inner = unwrap(model)
    if hasattr(inner, 'head'):
        raise_first_error(find_classifier_issues(_list_classifier_numbers(inner), len(classes), name))
    things, stuff = len(metainfo.get('thing_classes', classes)), len(metainfo.get('stuff_classes', ()))
    wrong = [
        f'{key}={value} (should be {expected})'
        for key, value, expected in _list_numbers(model, things, stuff)
        if value != expected
    ]
    if wrong:
        number = f'{things} thing and {stuff} stuff classes' if stuff else f'{things} classes'
        raise ConfigError(
            f'{", ".join(wrong)}: {name}_dataloader.dataset has {number} (metainfo.classes); set them in model'
        )
    _check_class_weights(model, len(classes))
    ignored = getattr(dataset, 'ignore_index', None)
    for head, module in _iterate_heads(model):
        if {'decode_head', 'auxiliary_head'} & set(head.split('.')) and ignored is not None:
            if hasattr(module, 'num_classes') and getattr(module, 'ignore_index', ignored) != ignored:
                raise ConfigError(
                    f'{head}.ignore_index={module.ignore_index}: {name}_dataloader.dataset ignores {ignored}; '
                    'write the same in both'
                )


def find_classifier_issues(numbers: Iterable[tuple[str, Any]], number: int, name: str) -> list[Issue]:
    """Returns an error if a classifier's numbers of classes are not the data set's.

    Args:
        numbers: Config keys and their values; None fits any number.
        number: Classes of the data set.
        name: Name of its split.
    """
    wrong = [f'{key}={value} (should be {number})' for key, value in numbers if value not in (None, number)]
    if not wrong:
        return []
    message = f'{", ".join(wrong)}: {name}_dataloader.dataset has {number} classes; set them in model'
    return [Issue('wrong number of classes', message, name, error=ConfigError)]


def list_configured_numbers(model: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the config keys and values of a classifier's numbers of classes, from its config."""
    head = model.get('head') or {}
    parts = {'model.head': head, 'model.head.loss': head.get('loss') or {}}
    parts['model.data_preprocessor'] = model.get('data_preprocessor') or {}
    return [(f'{name}.num_classes', part['num_classes']) for name, part in parts.items() if 'num_classes' in part]


def _list_classifier_numbers(model: nn.Module) -> list[tuple[str, Any]]:
    head, found = model.head, []
    parts = {'model.head': head, 'model.head.loss': getattr(head, 'loss_module', None)}
    parts['model.data_preprocessor'] = getattr(model, 'data_preprocessor', None)
    for name, part in parts.items():
        if hasattr(part, 'num_classes'):
            found.append((f'{name}.num_classes', part.num_classes))
    return found


def _check_class_weights(model: nn.Module, number: int) -> None:
    """Refuses class weights that MMSegmentation's cross entropy fails with, or of another number of classes."""
    for name, module in model.named_modules():
        weights = getattr(module, 'class_weight', None)
        if type(module).__module__.startswith('mmseg.') and type(module).__name__ == 'CrossEntropyLoss' and weights:
            raise ConfigError(
                f'model.{name}.class_weight: CrossEntropyLoss fails at ignored pixels with class weights; '
                "write type='WeightedCrossEntropyLoss'"
            )
        if type(module).__name__ == 'WeightedCrossEntropyLoss' and len(weights) != number:
            raise ConfigError(f'model.{name}.class_weight has {len(weights)} numbers; write {number}, one per class')


def _list_numbers(model: nn.Module, things: int, stuff: int) -> Iterator[tuple[str, int, int]]:
    """Yields settings that depend on the number of classes: config key, its value, what it should be."""
    for head, module in _iterate_heads(model):
        if hasattr(module, 'num_things_classes') and '.decode_head' not in head:
            yield f'{head}.num_things_classes', module.num_things_classes, things
            yield f'{head}.num_stuff_classes', getattr(module, 'num_stuff_classes', stuff), stuff
        elif getattr(module, 'num_classes', None) is not None:  # some of MMPretrain's losses leave it open
            yield f'{head}.num_classes', module.num_classes, things  # an instance head's, or a segmentor's
        weights = getattr(module, 'class_weight', None)
        if isinstance(weights, (list, tuple)) and hasattr(module, 'num_queries'):  # Mask2Former's
            yield f'len({head}.loss_cls.class_weight)', len(weights), things + stuff + 1


def _iterate_heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the config keys and modules of heads."""
    for module_name, module in model.named_modules():
        parts = [part for part in module_name.split('.') if part not in ('', 'module')]  # without wrappers
        if parts and (hasattr(module, 'num_things_classes') or HEADS & set(parts)):
            yield '.'.join(['model', *parts]), module


def _check_metric(metric: Any, datasets: list, name: str) -> None:
    known = getattr(metric, 'image_ids', None)  # None: annotations come with the images, or another metric
    if known:
        for dataset in datasets:
            image_ids = {dataset.get_data_info(index).get('img_id') for index in range(len(dataset))}
            absent = set(dataset.metainfo['classes']) - metric.category_names
            is_same = metric.ann_file == dataset.ann_file or osp.realpath(metric.ann_file) == osp.realpath(
                dataset.ann_file
            )
            if image_ids - known or absent and not is_same:
                raise ConfigError(
                    f'{name}_evaluator.ann_file lacks categories or images of {name}_dataloader.dataset; '
                    f'name the same file there, {dataset.ann_file}'
                )
    kinds = {cls.__name__ for cls in type(metric).__mro__}  # MMPretrain and MMSegmentation need not be installed
    for dataset in datasets if 'Accuracy' in kinds else ():
        if getattr(dataset, 'with_label', True) is False:
            raise ConfigError(
                f'{name}_dataloader.dataset.with_label=False: accuracy needs labels; set it to True, or predict with '
                '--format-only'
            )
        number = len(dataset.metainfo.get('classes') or ())
        if 0 < number < max(metric.topk):
            raise ConfigError(
                f'{name}_evaluator.topk={metric.topk}: {name}_dataloader.dataset has {number} classes; write topk=(1,)'
            )
    is_iou = 'IoUMetric' in kinds
    if is_iou and not metric.format_only:
        prefixes = [getattr(dataset, 'data_prefix', None) for dataset in datasets]
        if any(prefix is not None and not prefix.get('seg_map_path') for prefix in prefixes):
            raise ConfigError(
                f'{name}_evaluator needs label maps, but {name}_dataloader.dataset has none; set its '
                f'data_prefix.seg_map_path, or {name}_evaluator.format_only=True to write predictions only'
            )
