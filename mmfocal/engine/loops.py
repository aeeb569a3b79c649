"""Train loops that go on after an interruption as if there had been none, within an epoch too.

What is random in a batch depends on the seed, the epoch and the batch's place in it, and what is random in an iteration on the
seed and the iteration's number. So there is no random state to be saved, batches before the first one need not be read
again, and neither the number of workers nor validations change what is trained.
"""

import os
import os.path as osp
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmfocal.engine.out_of_memory import explain_out_of_memory
from mmfocal.errors import ConfigError

TERMINATED = 128 + signal.SIGTERM
VALIDATED = 'last_validation'  # a file in the work directory: the iteration of the last validation that ended


class _ResumableLoop:
    """What both loops below do otherwise than MMEngine's.

    - A process that is told to end (SIGTERM) finishes its iteration, saves to `resume.pth` and ends with code 143; in a
      validation it ends at once, since before one the state is saved.
    - A validation that did not end is done first after resuming.
    """

    endless: bool

    def __init__(self, runner, dataloader, *args, **kwargs):
        if isinstance(dataloader, dict):
            diff_rank_seed = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=diff_rank_seed)
        super().__init__(runner, ResumableLoader(dataloader, runner, self.endless), *args, **kwargs)
        self.epoch_start = 0  # the iteration that the epoch began with
        self.first = 0  # the next epoch's first batch
        self.is_told_to_end = False

    def progress(self, epoch: int, iteration: int) -> dict:
        """What a checkpoint has to say of the data.

        Args:
            epoch (int): Finished epochs.
            iteration (int): Finished iterations.

        Returns:
            dict: `batches_done` in the epoch, of each process, `batch_size` of all processes together, and `sampler_seed`.
        """
        batches = self.dataloader.batch_sampler
        done = iteration - self.epoch_start if epoch == self._epoch or self.endless else 0
        return dict(batches_done=done, batch_size=batches.batch_size * get_world_size(), sampler_seed=batches.seed)

    def go_on_from(self, meta: dict) -> None:
        """Sets what `progress` had told; of a checkpoint of MMEngine's own loops what it knows."""
        batches = self.dataloader.batch_sampler
        if 'batches_done' in meta:  # of batches that may have had another size
            self.first = meta['batches_done'] * meta['batch_size'] // (batches.batch_size * get_world_size())
        else:
            self.first = self._iter if self.endless else 0
        self.epoch_start = self._iter - self.first
        batches.seed = meta.get('sampler_seed', batches.seed)

    def run(self) -> torch.nn.Module:
        """Launches training."""
        if self._iter == 0:
            self.runner.write_note(VALIDATED, '')  # it may be of an earlier training in this folder
        if self.runner.val_loop is not None:
            loader = self.runner.val_loop.dataloader
            loader.worker_init_fn = _InitWorker(loader.worker_init_fn)
        with self._sigterm_is_noted():
            try:
                self._run()
            finally:
                self.dataloader.close()
        return self.runner.model

    def run_iter(self, *args) -> None:
        """One iteration; arguments as of MMEngine's loop, the batch last."""
        seed_all(self.runner.seed, get_rank(), self._iter)
        with explain_out_of_memory(self.runner, args[-1]):
            super().run_iter(*args)
        if self._all_are_told_to_end() and self.runner.can_be_resumed_here():
            self.runner.logger.warning('The process was told to end (SIGTERM): saving.')
            if self.runner.saved_iter != self._iter:
                self.runner.save_to_resume(self._iter)
            raise SystemExit(TERMINATED)

    def _validate_after_resuming(self) -> None:
        """Validates, if resumed where a validation was due and has not ended."""
        path = osp.join(self.runner.work_dir, VALIDATED)
        if not self.runner._resume or self._iter == 0 or self.first and not self.endless:
            return
        if osp.isfile(path):
            with open(path, encoding='utf-8', errors='replace') as file:
                if file.read() == str(self._iter):
                    return
        self._decide_current_val_interval()
        self._validate_if_due()

    def _validate_if_due(self) -> None:
        now, end = (self._iter, self._max_iters) if self.endless else (self._epoch, self._max_epochs)
        if self.runner.val_loop is None or now < self.val_begin or now % self.val_interval and now != end:
            return
        if self.runner.saved_iter != self._iter and self.runner.saves_checkpoints() and not self.runner.unsaved:
            self.runner.save_to_resume(self._iter)
        self.is_validating = True
        if self.is_told_to_end:
            raise SystemExit(TERMINATED)
        seed_all(self.runner.seed, get_rank(), self._iter)
        self.runner.val_loop.run()
        self.is_validating = False
        if self.runner.saves_checkpoints() and any(
            getattr(one, 'need_val_args', False) for one in self.runner.param_schedulers or ()
        ):
            self.runner.save_to_resume(self._iter)  # a schedule has seen the metrics
        self.runner.write_note(VALIDATED, str(self._iter))

    @contextmanager
    def _sigterm_is_noted(self) -> Iterator[None]:
        def note(*_):
            self.is_told_to_end = True
            if self.is_validating:
                raise SystemExit(TERMINATED)

        self.is_validating = False
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
            yield
            return
        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _all_are_told_to_end(self) -> bool:
        if get_world_size() == 1:
            return self.is_told_to_end
        told = torch.tensor(int(self.is_told_to_end))
        all_reduce(told, 'max')  # an iteration that some began all have to
        return bool(told)


@LOOPS.register_module()
class ResumableEpochLoop(_ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's `EpochBasedTrainLoop`, with the same arguments; `FocalRunner` takes it in place of that one."""

    endless = False

    def _run(self):
        self.runner.call_hook('before_train')
        self._validate_after_resuming()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train')

    def run_epoch(self) -> None:
        """Runs an epoch, or what is left of it."""
        first, self.first = self.first, 0
        self.dataloader.batch_sampler.begin(self._epoch, first)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, data_batch in enumerate(self.dataloader, first):
            self.run_iter(number, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.epoch_start = self._iter


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """MMEngine's `IterBasedTrainLoop`, with the same arguments; `FocalRunner` takes it in place of that one."""

    endless = True

    def _run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._validate_after_resuming()
        self.dataloader.batch_sampler.begin(0, self.first)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')


class ResumableLoader(DataLoader):
    """A data loader whose samples are seeded each for itself, and whose batches can begin in the midst of an epoch.

    Args:
        loader (DataLoader): What it does otherwise as.
        runner (Runner): Its seed is taken where the loader's sampler has none.
        endless (bool): Whether one pass over the data follows another.

    Raises:
        ConfigError: If the loader has no batches of indices.
    """

    def __init__(self, loader: DataLoader, runner, endless: bool):
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise ConfigError('train_dataloader: training needs a data set with indices and a batch_size')
        kept = (
            'num_workers',
            'collate_fn',
            'pin_memory',
            'timeout',
            'multiprocessing_context',
            'generator',
            'prefetch_factor',
            'persistent_workers',
            'pin_memory_device',
        )
        super().__init__(
            SeededDataset(loader.dataset),
            batch_sampler=SeededBatches(loader.batch_sampler, runner, endless),
            worker_init_fn=_InitWorker(loader.worker_init_fn),
            **{name: getattr(loader, name) for name in kept},
        )

    def __iter__(self):
        self.running = super().__iter__()  # with the first batch: before, nobody knows which it is
        yield from self.running

    def close(self) -> None:
        """Ends the workers; left to Python's garbage collection, that takes seconds for each."""
        if self.num_workers and hasattr(self, 'running'):
            self.running._shutdown_workers()


class SeededIndex(int):
    """An index of a data set with the numbers that seed its sample's augmentation."""

    key: tuple


class SeededBatches:
    """A batch sampler that begins at any batch, and whose indices are `SeededIndex`.

    Args:
        batch_sampler (Sampler): Of the batches of indices.
        runner (Runner): Its seed is taken where the sampler has none.
        endless (bool): Whether one pass over the sampler follows another.
    """

    def __init__(self, batch_sampler, runner, endless: bool):
        self.batch_sampler, self.runner, self.endless = batch_sampler, runner, endless
        self.epoch = self.first = 0

    @property
    def sampler(self):
        return getattr(self.batch_sampler, 'sampler', self.batch_sampler)

    @property
    def batch_size(self) -> int:
        size = getattr(self.batch_sampler, 'batch_size', 1)
        return size if isinstance(size, int) else 1  # of several sources: batches are counted then

    @property
    def seed(self) -> int:
        own = getattr(self.sampler, 'seed', None)
        return self.runner.seed if own is None else own

    @seed.setter
    def seed(self, seed: int):
        if getattr(self.sampler, 'seed', None) is not None:
            self.sampler.seed = seed

    def begin(self, epoch: int, first: int) -> None:
        """Says with which epoch, and with which batch of it, the next iteration begins."""
        self.epoch, self.first = epoch, first

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        number, first, self.first = 0, self.first, 0
        for epoch in range(self.epoch, 2**31 if self.endless else self.epoch + 1):
            seed_all(self.seed, epoch)  # for samplers without a seed of their own
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            before = number
            for indices in self.batch_sampler:
                if number >= first:
                    yield [self._seeded(index, epoch, number, place) for place, index in enumerate(indices)]
                number += 1
            if number == before:
                return

    def _seeded(self, index: int, *where: int) -> SeededIndex:
        index = SeededIndex(index)
        index.key = (self.seed, get_rank(), *where)
        return index

    def __len__(self) -> int:
        return len(self.batch_sampler)


class SeededDataset(Dataset):
    """A data set that seeds all random numbers before it loads a sample; otherwise, also for who changes it, the one inside.

    Args:
        dataset (Dataset): The one inside.
    """

    def __init__(self, dataset: Dataset):
        self.__dict__['dataset'] = dataset

    def __getitem__(self, index: SeededIndex):
        seed_all(*index.key)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        if name == 'dataset' or name.startswith('__'):  # absent while it is copied to a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value):
        setattr(self.dataset, name, value)


class _InitWorker:
    """Lets a worker outlive a signal that a cluster sends to all processes, as long as the training needs to save."""

    def __init__(self, init: Callable | None):
        self.init = init

    def __call__(self, worker_id: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_the_end, daemon=True).start()
        if self.init:
            self.init(worker_id)


def _wait_for_the_end():
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass  # a cluster's, to all processes: the training still needs batches, and ends its workers itself
    os._exit(0)


def seed_all(*key: int) -> None:
    """Seeds Python, NumPy and PyTorch.

    Args:
        *key (int): Not negative; each combination has random numbers of its own.
    """
    python, numpy, pytorch = map(int, np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(pytorch)
    if torch.cuda.is_initialized():  # torch.manual_seed would note the stack for later, ten times slower
        torch.cuda.manual_seed_all(pytorch)
