"""Train loops that continue after an interruption as if there had been none, also within an epoch."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import barrier, get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader, IterableDataset

from mmfocal.engine.checkpointer import checkpointer_of
from mmfocal.engine.out_of_memory import explain_out_of_memory
from mmfocal.engine.preemption import EXIT_CODE, Preemption
from mmfocal.engine.seeding import SeededBatches, SeededDataset, seed_all
from mmfocal.engine.unused_parameters import name_unused_parameters
from mmfocal.errors import ConfigError


class _ResumableLoop:
    """What both loops below change in MMEngine's.

    - Each sample and each iteration is seeded by its number, so that a resumed training sees the same ones.
    - On SIGTERM the process finishes its iteration, saves `resume.pth` and exits with code 143; during a validation it
      exits at once, since the state is saved before.
    - A validation that did not finish is repeated after resuming.
    """

    endless: bool

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        self.checkpointer = checkpointer_of(runner, self)
        if isinstance(dataloader, dict):
            diff_rank_seed = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=diff_rank_seed)
        super().__init__(runner, ResumableLoader(dataloader, runner.seed, self.endless), *args, **kwargs)
        self.epoch_start = 0  # the iteration that the epoch started with
        self.first = 0  # the next epoch's first batch
        self.preemption = Preemption()

    def start_at(self, first: int) -> None:
        """Sets the batch, counted within the epoch, that the next iteration starts with."""
        self.first = first
        self.epoch_start = self._iter - first

    def run(self) -> torch.nn.Module:
        """Trains and returns the model."""
        if self._iter == 0:
            self.checkpointer.forget_validation()
        with self.preemption.handle():
            try:
                self._run()
            finally:
                self.dataloader.close()
        return self.runner.model

    def run_iter(self, *args: Any) -> None:
        """Runs one iteration; arguments as of MMEngine's loop, the batch last."""
        seed_all(self.runner.seed, get_rank(), self._iter)
        with explain_out_of_memory(self.runner, args[-1]), name_unused_parameters(self.runner.model):
            super().run_iter(*args)
        if self.preemption.requested_anywhere() and self.checkpointer.can_save():
            self.runner.logger.warning('SIGTERM received: saving and exiting.')
            self.checkpointer.save_resume_file(self._iter)
            barrier()  # the first process to exit ends the job
            raise SystemExit(EXIT_CODE)

    def _validate_after_resuming(self) -> None:
        """Runs a validation that was due where training resumes and has not finished."""
        if not self.runner._resume or self._iter == 0 or self.first and not self.endless:
            return
        if not self.checkpointer.has_validated(self._iter):
            self._decide_current_val_interval()
            self._validate_if_due()

    def _validate_if_due(self) -> None:
        now, end = (self._iter, self._max_iters) if self.endless else (self._epoch, self._max_epochs)
        if self.runner.val_loop is None or now < self.val_begin or now % self.val_interval and now != end:
            return
        self.checkpointer.before_validation(self._iter)
        with self.preemption.exit_at_once():
            seed_all(self.runner.seed, get_rank(), self._iter)
            self.runner.val_loop.run()
        self.checkpointer.after_validation(self._iter)


@LOOPS.register_module()
class ResumableEpochLoop(_ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's `EpochBasedTrainLoop` with the same arguments, resumable within an epoch."""

    endless = False

    def _run(self) -> None:
        self.runner.call_hook('before_train')
        self._validate_after_resuming()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train')

    def run_epoch(self) -> None:
        """Runs an epoch, or the rest of it."""
        first, self.first = self.first, 0
        self.dataloader.batch_sampler.start_at(self._epoch, first)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, data_batch in enumerate(self.dataloader, first):
            self.run_iter(number, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.epoch_start = self._iter


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """MMEngine's `IterBasedTrainLoop` with the same arguments, which resumes without loading earlier batches again."""

    endless = True

    def _run(self) -> None:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._validate_after_resuming()
        self.dataloader.batch_sampler.start_at(0, self.first)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')


class ResumableLoader(DataLoader):
    """A data loader whose samples are seeded by their numbers, and which can start within an epoch.

    Args:
        loader: The data loader whose settings are copied.
        seed: For samplers without a seed of their own.
        endless: Whether one pass over the data follows another.

    Raises:
        ConfigError: If the loader has no batches of indices.
    """

    def __init__(self, loader: DataLoader, seed: int, endless: bool) -> None:
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise ConfigError('train_dataloader: no indices to resume from; use a map-style data set and a batch_size')
        copied = (
            'num_workers',
            'collate_fn',
            'pin_memory',
            'timeout',
            'worker_init_fn',
            'multiprocessing_context',
            'generator',
            'prefetch_factor',
            'persistent_workers',
            'pin_memory_device',
        )
        super().__init__(
            SeededDataset(loader.dataset),
            batch_sampler=SeededBatches(loader.batch_sampler, seed, endless),
            **{name: getattr(loader, name) for name in copied},
        )

    def __iter__(self) -> Iterator[Any]:
        self.running = super().__iter__()  # when the first batch is asked for: only then is it known which it is
        yield from self.running

    def close(self) -> None:
        """Ends the workers; left to Python's garbage collection, that takes seconds for each."""
        if self.num_workers and hasattr(self, 'running'):
            self.running._shutdown_workers()
