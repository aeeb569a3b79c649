from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from mmfocal.engine.checkpointer import checkpointer_of
from mmfocal.errors import ConfigError


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's `CheckpointHook`, which loses nothing if a checkpoint cannot be saved or the process dies meanwhile.

    It decides when to save; `Checkpointer` saves. A checkpoint that cannot be saved is logged, and training continues;
    only a failure of the last one is an error, after training.

    Args:
        *args: As of `CheckpointHook`.
        resume_interval: Iterations between checkpoints in `resume.pth`, from which training resumes within an epoch or
            between two of `interval`, and which the next of those removes. 0: only on SIGTERM.
        **kwargs: As of `CheckpointHook`.
    """

    def __init__(self, *args: Any, resume_interval: int = 0, **kwargs: Any) -> None:
        for name in ('save_best', 'rule'):  # MMEngine takes lists only
            if isinstance(kwargs.get(name), tuple):
                kwargs[name] = list(kwargs[name])
        for name, value in dict(kwargs, resume_interval=resume_interval).items():
            if name in ('interval', 'resume_interval', 'max_keep_ckpts') and not isinstance(value, int):
                raise ConfigError(f'SafeCheckpointHook: {name}={value!r} must be an integer; correct default_hooks')
        super().__init__(*args, **kwargs)
        self.resume_interval = resume_interval
        self.is_due = False

    def before_train(self, runner) -> None:
        checkpointer = checkpointer_of(runner, self)
        super().before_train(runner)
        checkpointer.clean_up()
        checkpointer.restore_gradients()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        runner.checkpointer.add_gradients(checkpoint)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume:
            runner.checkpointer.keep_gradients(checkpoint)

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self.is_due |= self.every_n_train_iters(runner, self.resume_interval)
        if self.is_due and runner.checkpointer.can_save():
            self.is_due = False
            runner.checkpointer.save_resume_file(runner.iter + 1)

    def after_train(self, runner) -> None:
        """Raises an error if the last checkpoint is missing.

        Raises:
            SavingError: With the reason.
        """
        runner.checkpointer.check_last_is_saved()
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        self.keep_ckpt_ids = runner.checkpointer.save_numbered(
            step,
            kept=list(getattr(self, 'keep_ckpt_ids', ())),
            most=self.max_keep_ckpts,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            **self.args,
        )
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        missing = [name for name in self.save_best or () if name != 'auto' and name not in metrics]
        if missing:  # such as COCO's, where nothing was predicted
            runner.logger.warning(f'save_best={", ".join(missing)}: not among the metrics of this validation; skipped')
            return
        with runner.checkpointer.replace_best(self):
            super()._save_best_checkpoint(runner, metrics)
