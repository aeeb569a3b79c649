from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import HOOKS

from mmfocal.errors import ConfigError


@HOOKS.register_module()
class CheckSegmentationHook(Hook):
    """Checks, before anything is trained or tested, that the model and the evaluators fit the data sets.

    Raises:
        ConfigError: If a decode head or auxiliary head has another number of classes than a data set, or
            ignores another label, data sets have different classes, or mean IoU is to be computed without
            label maps.
    """

    def before_run(self, runner):
        """Checks the loops that this run has."""
        loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
        # The others are configured, but not of this run.
        loops = {name: loop for name, loop in loops.items() if isinstance(loop, BaseLoop)}
        data_sets = {name: loop.dataloader.dataset for name, loop in loops.items()}
        classes = {name: tuple(dataset.metainfo['classes']) for name, dataset in data_sets.items()}
        if len(set(classes.values())) > 1:
            raise ConfigError(
                'metainfo.classes of train_dataloader.dataset and of val_dataloader.dataset '
                "differ; write the same in both, in the order of the label maps' values"
            )
        for name, dataset in data_sets.items():
            _check_heads(runner.model, len(classes[name]), getattr(dataset, 'ignore_index', None), name)
            if name != 'train' and isinstance(dataset, BaseSegDataset):
                _check_evaluator(loops[name].evaluator, dataset, name)


def _check_heads(model, number, ignore_index, name):
    for module_name, module in model.named_modules():
        parts = [part for part in module_name.split('.') if part != 'module']  # of wrappers
        if not {'decode_head', 'auxiliary_head'} & set(parts) or not hasattr(module, 'num_classes'):
            continue
        head = '.'.join(['model', *parts])
        if module.num_classes != number:
            raise ConfigError(
                f'{head}.num_classes={module.num_classes}: {name}_dataloader.dataset has '
                f'{number} classes (its metainfo.classes); set num_classes={number} in each '
                'head of model'
            )
        weights = getattr(module, 'class_weight', None)  # Mask2Former's
        if weights and len(weights) != number + 1:
            raise ConfigError(
                f'{head}.loss_cls.class_weight has {len(weights)} numbers for {number} '
                f'classes; write {number + 1}, the last for no object'
            )
        if ignore_index not in (None, getattr(module, 'ignore_index', ignore_index)):
            raise ConfigError(
                f'{head}.ignore_index={module.ignore_index}: {name}_dataloader.dataset ignores '
                f'{ignore_index}; write the same in both'
            )


def _check_evaluator(evaluator, dataset, name):
    compares = any(isinstance(metric, IoUMetric) and not metric.format_only for metric in evaluator.metrics)
    if compares and not dataset.data_prefix.get('seg_map_path'):
        raise ConfigError(
            f'{name}_evaluator needs label maps, and {name}_dataloader.dataset has none; set '
            f'its data_prefix.seg_map_path, or {name}_evaluator.format_only=True for '
            'predictions alone'
        )
