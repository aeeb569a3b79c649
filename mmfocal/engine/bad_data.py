from typing import Any

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

TOLD = 5  # sentences


@HOOKS.register_module()
class BadDataHook(Hook):
    """Counts the samples that a data set with `bad_data='skip'` has replaced.

    The log has the first sentences as warnings and, once there is one, the running count of all processes as
    `bad_samples`; a resumed training goes on counting. Several processes put their counts together every
    `interval` iterations and at the end of an epoch, so that the others do not wait for it each time.

    Args:
        interval (int): In iterations, for several processes; one process counts at once. Default: 50, the
            interval of the log.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50):
        self.interval = interval
        self.skipped = []
        self.told = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None) -> None:
        if isinstance(data_batch, dict):
            for sample in data_batch.get('data_samples') or ():
                self.skipped += sample.get('skipped', ()) if hasattr(sample, 'metainfo') else ()
        if get_world_size() == 1 and self.skipped or (runner.iter + 1) % self.interval == 0:
            self._tell(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._tell(runner)

    def _tell(self, runner: Runner) -> None:
        sentences = [sentence for part in all_gather_object(self.skipped) for sentence in part]
        self.skipped = []
        if not sentences:
            return
        for sentence in sentences:
            if sentence not in self.told and len(self.told) < TOLD:
                self.told.append(sentence)
                runner.logger.warning(f"bad_data='skip': another sample takes the place of {sentence}")
                if len(self.told) == TOLD:
                    runner.logger.warning('Others are only counted; tools/check_dataset.py --images lists all.')
        count = runner.message_hub.get_info('bad_samples', 0) + len(sentences)
        runner.message_hub.update_info('bad_samples', count)  # which checkpoints keep
        runner.message_hub.update_scalar('train/bad_samples', count)
