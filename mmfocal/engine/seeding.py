"""Random numbers that depend on a sample's place in training alone.

What is random in a sample depends on the seed, the epoch, the batch and the place in the batch; what is random in an
iteration on the seed and the iteration's number. So there is no random state to save, batches before the first
one after resuming need not be loaded again, and neither the number of workers nor validations change what is trained.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import Dataset


class SeededIndex(int):
    """A data set's index with the numbers that seed its sample's augmentation."""

    key: tuple[int, ...]


class SeededBatches:
    """A batch sampler that can start at any batch, and whose indices are `SeededIndex`.

    Args:
        batch_sampler: The sampler of batches of indices.
        seed: For samplers without a seed of their own.
        endless: Whether one pass over the sampler follows another.
    """

    def __init__(self, batch_sampler: Any, seed: int, endless: bool) -> None:
        self.batch_sampler, self.default_seed, self.endless = batch_sampler, seed, endless
        self.epoch = self.first = 0

    @property
    def sampler(self) -> Any:
        return getattr(self.batch_sampler, 'sampler', self.batch_sampler)

    @property
    def batch_size(self) -> int:
        """The images per batch; 1 for samplers that mix several sources, whose batches are counted instead."""
        size = getattr(self.batch_sampler, 'batch_size', 1)
        return size if isinstance(size, int) else 1

    @property
    def seed(self) -> int:
        own = getattr(self.sampler, 'seed', None)
        return self.default_seed if own is None else own

    @seed.setter
    def seed(self, seed: int) -> None:
        self.default_seed = seed
        if getattr(self.sampler, 'seed', None) is not None:
            self.sampler.seed = seed

    def start_at(self, epoch: int, first: int) -> None:
        """Sets the epoch, and the batch within it, that the next iteration starts with."""
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

    def _seeded(self, index: int, *place: int) -> SeededIndex:
        index = SeededIndex(index)
        index.key = (self.seed, get_rank(), *place)
        return index

    def __len__(self) -> int:
        return len(self.batch_sampler)


class SeededDataset(Dataset):
    """A data set that seeds all random numbers before it loads a sample, and otherwise stands for the one inside.

    Args:
        dataset: The one inside; attributes are read from and written to it.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.__dict__['dataset'] = dataset

    def __getitem__(self, index: SeededIndex) -> Any:
        seed_all(*index.key)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # not there yet while it is unpickled in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)


def seed_all(*key: int) -> None:
    """Seeds Python, NumPy and PyTorch.

    Args:
        *key: Numbers from 0; each combination has random numbers of its own.
    """
    python, numpy, pytorch = map(int, np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(pytorch)
    if torch.cuda.is_initialized():  # torch.manual_seed records the stack for later calls, which is ten times slower
        torch.cuda.manual_seed_all(pytorch)
