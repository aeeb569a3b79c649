"""Resuming with other settings than the checkpoint's: they count as used from the start, or are refused."""

import copy
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner

from mmfocal.engine.config_text import literal_settings
from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.text import join_some

# What a scheduler's state has besides its settings; the last row is ReduceOnPlateau's.
PROGRESS = {'optimizer', 'last_step', '_global_step', '_last_value', 'base_values', 'verbose'}
PROGRESS |= {'best', 'num_bad_epochs', 'cooldown_counter', 'last_epoch'}
IMPLEMENTATION = {'params', 'foreach', 'fused', 'capturable', 'differentiable', 'decoupled_weight_decay'}
OPTIMIZERS = {'betas', 'momentum', 'alpha', 'rho', 'lambd'}  # by which a group's keys tell optimizers apart
RUN = {'work_dir', 'launcher', 'load_from', 'resume', 'experiment_name', 'visualizer', 'randomness'}  # of a run alone
COVERED = ('param_scheduler', 'optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg')  # compared by their effect


class ResumedSettings:
    """The config's optimizer settings and schedules, taken before a checkpoint's state replaces them.

    Args:
        runner: With a built optimizer wrapper and built schedulers.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.schedulers = list(runner.param_schedulers or ())
        self.states = [dict(scheduler.__dict__) for scheduler in self.schedulers]
        self.groups = [_settings_of(group) for group in runner.optim_wrapper.param_groups]
        self.epoch_length = len(runner.train_loop.dataloader)

    def apply(self, checkpoint: dict, filename: str, iteration: int) -> None:
        """Lets the config's settings take effect where they differ from the checkpoint's, and logs what differs.

        Args:
            checkpoint: Its `param_schedulers`, `meta` and `message_hub`.
            filename: Its name, for messages.
            iteration: The iterations it says are finished; the loop's count differs if epochs have another length.

        Raises:
            CheckpointError: If it is of another optimizer.
            ConfigError: If a schedule that follows metrics differs.
        """
        saved = checkpoint.get('param_schedulers') or []
        differences = [*self._groups(filename), *self._schedulers(saved)]
        loop = self.runner.train_loop
        moved = loop.iter != iteration
        if moved:
            differences.append(
                f'an epoch has {self.epoch_length} iterations, so iteration {iteration} counts as {loop.iter}'
            )
        if differences:
            self._fast_forward(loop)
            rates = sorted({group['lr'] for group in self.runner.optim_wrapper.param_groups})
            self.runner.logger.warning(
                f'{filename}: resuming with other settings, as if training had used them from the start: '
                f'{join_some(differences, 12)}; learning rate {join_some([f"{rate:.4g}" for rate in rates], 4)}'
            )
        others = list(_config_differences(checkpoint.get('meta', {}).get('cfg', ''), self.runner.cfg.pretty_text))
        if others:
            self.runner.logger.warning(
                f'{filename}: resuming with other settings, which take effect from here on: {join_some(others, 12)}'
            )
        self._warn_if_finished(loop)

    def _groups(self, filename: str) -> Iterator[str]:
        """Yields settings of the optimizer that differ, each once."""
        scheduled = {state['param_name'] for state in self.states}
        seen = set()
        for config, group in zip(self.groups, self.runner.optim_wrapper.param_groups):
            if OPTIMIZERS & config.keys() != OPTIMIZERS & group.keys():
                raise CheckpointError(
                    f'{filename}: saved with another optimizer, whose state cannot be used; restore '
                    'optim_wrapper.optimizer.type, or start from its weights with load_from'
                )
            for name in config.keys() & group.keys() - scheduled - IMPLEMENTATION:
                text = f'optimizer {name.removeprefix("initial_")}: {group[name]} -> {config[name]}'
                if config[name] != group[name] and text not in seen:
                    seen.add(text)
                    yield text

    def _schedulers(self, saved: list[dict]) -> Iterator[str]:
        if len(saved) != len(self.states):
            yield f'param_scheduler: {len(saved)} -> {len(self.states)} schedulers'
            return
        for number, (old, new, scheduler) in enumerate(zip(saved, self.states, self.schedulers)):
            ignored = PROGRESS
            if getattr(scheduler, 'need_val_args', False):  # only its end may differ, by default that of training
                scheduler.end, ignored = new['end'], PROGRESS | {'end'}
            for name in sorted((old.keys() | new.keys()) - ignored):
                if old.get(name) != new.get(name):
                    yield f'param_scheduler.{number}.{name}: {_short(old.get(name))} -> {_short(new.get(name))}'

    def _fast_forward(self, loop: Any) -> None:
        """Sets optimizer and schedulers to where they are after the loop's finished iterations and epochs."""
        for scheduler in self.schedulers:
            if getattr(scheduler, 'need_val_args', False):
                raise ConfigError(
                    f'param_scheduler: {type(scheduler).__name__} follows the metrics of past validations, so that '
                    'other settings cannot be resumed with; restore them, or start from its weights with load_from'
                )
        for group, settings in zip(self.runner.optim_wrapper.param_groups, self.groups):
            group.update(copy.deepcopy(settings))
        for scheduler, state in zip(self.schedulers, self.states):
            scheduler.__dict__.clear()
            scheduler.__dict__.update(state)
        length = None if loop.endless else self.epoch_length
        fast_forward(self.schedulers, self.runner.optim_wrapper, loop.iter, length)

    def _warn_if_finished(self, loop: Any) -> None:
        done, end, what = (
            (loop.iter, loop.max_iters, 'iters') if loop.endless else (loop.epoch, loop.max_epochs, 'epochs')
        )
        if done >= end:
            self.runner.logger.warning(
                f'train_cfg.max_{what}={end}: the checkpoint has {done} already, so nothing is left to train; raise it '
                'to train longer'
            )


def fast_forward(
    schedulers: list[_ParamScheduler], optimizer: OptimWrapper, iterations: int, epoch_length: int | None
) -> None:
    """Takes the steps of schedulers that have taken none yet, as training does in so many iterations.

    Args:
        schedulers: In the config's order; they change groups of the optimizer.
        optimizer: Theirs. Groups of equal settings, of which models have hundreds, are computed once.
        iterations: The finished ones.
        epoch_length: Iterations per epoch, after each of which schedulers by epoch take a step; None: never.
    """
    groups = optimizer.param_groups
    first: dict[str, int] = {}  # the first group of each kind
    kinds = [first.setdefault(repr(sorted(_settings_of(group).items(), key=str)), i) for i, group in enumerate(groups)]
    chosen = list(first.values())
    stand_in = _Optimizer([_settings_of(groups[i]) for i in chosen])
    bases = [scheduler.base_values for scheduler in schedulers]
    for scheduler, base in zip(schedulers, bases):
        scheduler.optimizer, scheduler.base_values = stand_in, [base[i] for i in chosen]
        scheduler._last_value = [scheduler._last_value[i] for i in chosen]
    for iteration in range(1, iterations + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if epoch_length and iteration % epoch_length == 0:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()
    for group, kind in zip(groups, kinds):
        group.update(stand_in.param_groups[chosen.index(kind)])
    for scheduler, base in zip(schedulers, bases):
        scheduler.optimizer, scheduler.base_values = optimizer, base
        scheduler._last_value = [scheduler._last_value[chosen.index(kind)] for kind in kinds]


class _Optimizer:
    """What a scheduler sees of an optimizer: groups, and that a step was taken."""

    def __init__(self, param_groups: list[dict]) -> None:
        self.param_groups = param_groups
        self._global_step = 0

    def step(self) -> None:
        raise NotImplementedError

    step._with_counter = True  # type: ignore[attr-defined]


def _settings_of(group: dict) -> dict:
    return copy.deepcopy({name: value for name, value in group.items() if name != 'params'})


def _short(value: Any) -> str:
    if hasattr(value, 'items'):  # MultiStepLR's milestones are counters
        value = list(value)
    text = str(value)
    return text if len(text) < 60 else f'{text[:57]}...'


def _config_differences(old: str, new: str) -> Iterator[str]:
    """Yields settings in which two config texts differ, except those that are compared by their effect."""
    try:
        one, other = (_flat(literal_settings(text)) for text in (old, new))
    except SyntaxError:
        return
    for name in sorted(one.keys() | other.keys()) if one and other else ():
        if one.get(name) != other.get(name) and name.partition('.')[0] not in RUN and not name.startswith(COVERED):
            yield f'{name}: {_short(one.get(name))} -> {_short(other.get(name))}'


def _flat(node: Any, name: str = '') -> dict[str, Any]:
    """Returns nested settings by their dotted names."""
    if not isinstance(node, (dict, list)) or not node:
        return {name: node}
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    prefix = f'{name}.' if name else ''
    return {inner: value for key, child in pairs for inner, value in _flat(child, f'{prefix}{key}').items()}
