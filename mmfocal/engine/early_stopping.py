from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmfocal.errors import ConfigError

STATE = 'early_stopping'  # in a checkpoint


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """MMEngine's `EarlyStoppingHook`, whose state is part of checkpoints: a resumed training stops when an
    uninterrupted one does.

    Args:
        *args: As of `EarlyStoppingHook`.
        **kwargs: As of `EarlyStoppingHook`.
    """

    follows_metrics = True  # the checkpointer saves again after a validation

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ConfigError(f'early stopping: patience={self.patience!r} must be a positive number of validations')

    def before_train(self, runner: Runner) -> None:
        """Stops a training at once that had stopped before it was resumed."""
        if self.wait_count >= self.patience:
            runner.train_loop.stop_training = True
            runner.logger.warning(
                f'early stopping: {self.monitor} had not improved in {self.wait_count} validations, so nothing is left '
                'to train; raise --early-stop to train longer'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[STATE] = dict(monitor=self.monitor, wait_count=self.wait_count, best_score=float(self.best_score))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get(STATE)
        if not runner._resume or not state:
            return
        if state['monitor'] != self.monitor:
            runner.logger.warning(
                f'early stopping: the checkpoint followed {state["monitor"]}; counting starts anew with {self.monitor}'
            )
            return
        self.wait_count, self.best_score = state['wait_count'], state['best_score']

    def _check_stop_condition(self, current_score: float) -> tuple[bool, str]:
        stops, reason = super()._check_stop_condition(current_score)
        if stops:  # for whatever reason; so that it has stopped after resuming too
            self.wait_count = max(self.wait_count, self.patience)
        return stops, reason
