from typing import Any

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmfocal.errors import ConfigError

REPORTED = 5  # messages; others are only counted


@HOOKS.register_module()
class BadDataHook(Hook):
    """Counts the samples that a data set with `bad_data='skip'` has replaced.

    The log has the first messages as warnings and, from the first one on, the running count of all processes as
    `bad_samples`; a resumed training continues to count.

    Args:
        interval: Iterations between two exchanges of counts among several processes, which also takes place at the
            end of an epoch; a single process counts at once. Default: 50, the interval of the log.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ConfigError(f'BadDataHook: interval={interval!r} must be an integer from 1; it counts iterations')
        self.interval = interval
        self.skipped: list[str] = []
        self.reported: list[str] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if isinstance(data_batch, dict):
            for sample in data_batch.get('data_samples') or ():
                self.skipped += sample.get('skipped', ()) if hasattr(sample, 'metainfo') else ()
        if get_world_size() == 1 and self.skipped or (runner.iter + 1) % self.interval == 0:
            self._report(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._report(runner)

    def _report(self, runner: Runner) -> None:
        messages = [message for part in all_gather_object(self.skipped) for message in part]
        self.skipped = []
        if not messages:
            return
        for message in messages:
            if message not in self.reported and len(self.reported) < REPORTED:
                self.reported.append(message)
                runner.logger.warning(f"bad_data='skip': another sample replaces {message}")
                if len(self.reported) == REPORTED:
                    runner.logger.warning('Others are only counted; mmfocal check-dataset --images lists all.')
        count = runner.message_hub.get_info('bad_samples', 0) + len(messages)
        runner.message_hub.update_info('bad_samples', count)  # which checkpoints keep
        runner.message_hub.update_scalar('train/bad_samples', count)
