"""Whether the metrics that a config asks for will come, checked before training instead of after an epoch."""

from collections.abc import Iterator
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmfocal.errors import ConfigError
from mmfocal.text import join_some

COCO = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
PANOPTIC = [f'{value}{of}' for of in ('', '_th', '_st') for value in ('PQ', 'SQ', 'RQ')]
IOU = dict(
    mIoU=('mIoU', 'mAcc'), mDice=('mDice', 'mAcc'), mFscore=('mFscore', 'mPrecision', 'mRecall')
)  # besides aAcc, which always comes


@HOOKS.register_module()
class CheckMetricsHook(Hook):
    """Checks, before anything is trained or tested, that the metrics come that are asked for.

    Metrics of classes that are not MMDetection's or MMSegmentation's are taken on trust.

    Raises:
        ConfigError: If checkpoints, early stopping or a schedule follow a metric that the evaluator does not give, or
            an evaluator asks a model without masks for those of segments.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks the loops that this run has."""
        loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
        loops = {name: loop for name, loop in loops.items() if isinstance(loop, BaseLoop)}
        for name, loop in loops.items():
            if name != 'train':
                _check_segments(runner.model, loop.evaluator, name)
        if 'train' not in loops:
            return
        followed = list(_followed(runner))
        if 'val' not in loops:
            if followed:
                runner.logger.warning(
                    f'{join_some(setting for setting, _ in followed)}: no effect, since nothing is validated'
                )
            return
        expected = expected_metrics(loops['val'].evaluator)
        if expected is None:
            return
        losses = getattr(loops['val'], 'extra_metrics', set())
        expected |= losses
        for setting, name in followed:
            is_part = losses and 'loss' in name  # of the validation loss
            if name not in expected and not name.endswith('_precision') and not is_part:
                raise ConfigError(
                    f'{setting}={name}: no such metric; val_evaluator gives {join_some(sorted(expected), 8)}'
                )


def expected_metrics(evaluator: Evaluator) -> set[str] | None:
    """Returns the names of the metrics that an evaluator gives, or None if one of its classes is unknown."""
    names = set()
    for metric in evaluator.metrics:
        found = _names(metric)
        if found is None:
            return None
        names |= {f'{metric.prefix}/{name}' if metric.prefix else name for name in found}
    return names


def _names(metric: Any) -> set[str] | None:
    kinds = {kind.__name__ for kind in type(metric).__mro__}
    if 'CocoMetric' in kinds:
        if {'proposal', 'proposal_fast'} & set(metric.metrics):
            return None
        items = metric.metric_items or COCO
        return {f'{kind}_{item}' for kind in metric.metrics for item in items}
    if 'CocoPanopticMetric' in kinds:
        return set(PANOPTIC)
    if 'IoUMetric' in kinds:
        return {'aAcc'}.union(*(IOU.get(kind, ()) for kind in metric.metrics))
    if 'ClassAccuracy' in kinds:
        return set(metric.keys)
    if 'Accuracy' in kinds and len(getattr(metric, 'thrs', ())) == 1:  # MMPretrain's
        return {f'top{k}' for k in metric.topk}
    return None


def _followed(runner: Runner) -> Iterator[tuple[str, str]]:
    """Yields settings with the metric that each follows."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            for name in hook.save_best or ():
                if name != 'auto':
                    yield 'default_hooks.checkpoint.save_best', name
        elif isinstance(hook, EarlyStoppingHook):
            yield 'EarlyStoppingHook.monitor', hook.monitor
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    for scheduler in schedulers:
        if getattr(scheduler, 'need_val_args', False):
            yield 'param_scheduler.monitor', scheduler.monitor


def _check_segments(model: nn.Module, evaluator: Evaluator, name: str) -> None:
    """Checks that a detector evaluated on segments has a part that predicts them."""
    asks = any('segm' in getattr(metric, 'metrics', ()) for metric in evaluator.metrics)
    words = ('mask', 'panoptic', 'segm')
    parts = [f'{part} {type(module).__name__}'.lower() for part, module in model.named_modules()]
    if asks and not any(word in part for part in parts for word in words):
        raise ConfigError(
            f"{name}_evaluator.metric: 'segm' needs masks, which this model does not predict; write metric='bbox'"
        )
