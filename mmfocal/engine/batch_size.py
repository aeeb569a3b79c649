"""`batch_size='auto'`: the largest batch whose training step fits the GPU's memory, found by trial."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import default_collate

from mmfocal.engine.out_of_memory import is_out_of_memory
from mmfocal.errors import ConfigError
from mmfocal.models.wrappers import unwrap
from mmfocal.weights import load_checkpoint

SHARE = 0.9  # of the memory that a step may take; fragmentation and unusual images need the rest
SAMPLES = 64  # training samples, of which the largest is tried
MOST = 256  # images in a batch


def choose_batch_size(runner: Runner, checkpoint: str | None) -> int:
    """Returns the batch size of each process, the same in all.

    A training that is resumed keeps that of its checkpoint.

    Args:
        runner: Before training; its model is on its GPU. Neither weights nor random numbers change.
        checkpoint: That training resumes from, if any.

    Raises:
        ConfigError: If there is no GPU, the model is sharded, or one image does not fit.
    """
    if checkpoint:
        total = load_checkpoint(checkpoint).get('meta', {}).get('batch_size')
        if total:
            return max(total // get_world_size(), 1)
    if not _has_gpu():
        raise ConfigError('--batch-size auto: PyTorch sees no GPU to fill; write a number')
    if runner.cfg.get('fsdp_units'):
        raise ConfigError('--batch-size auto: with fsdp_units a trial would need all processes; write a number')
    step = TrialStep(runner)
    with kept_random_numbers():
        fits = _fits_gpu(step)
        number = largest_that_fits(fits, min(MOST, max(step.num_samples // get_world_size(), 1)))
    step.restore()
    lowest = torch.tensor(number, device=get_device())
    all_reduce(lowest, 'min')
    number = int(lowest)
    if not number:
        raise ConfigError('--batch-size auto: one image does not fit the GPU; resize to smaller images')
    return number


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """Returns the largest number up to `most` that fits, or 0: doubles, then bisects.

    Args:
        fits: Whether a number fits; what is below a number that fits does too.
        most: The largest number to try.
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


class TrialStep:
    """A training step with copies of the largest of some samples.

    Args:
        runner: Whose model and data set are used.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.model = unwrap(runner.model)
        self.state = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
        with kept_random_numbers():
            dataset = DATASETS.build(copy.deepcopy(runner._train_dataloader['dataset']))
            self.num_samples = len(dataset)
            indices = random.Random(0).sample(range(len(dataset)), min(SAMPLES, len(dataset)))
            self.sample = max((dataset[index] for index in indices), key=_pixels)

    def __call__(self, number: int) -> None:
        """Runs forward and backward with a batch of so many images, beside the memory that an optimizer needs."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        copies = 3 if self.runner.distributed else 2  # AdamW's two averages, and the buckets of gradients
        others = [torch.empty_like(parameter) for parameter in parameters for _ in range(copies)]
        batch = [copy.deepcopy(self.sample) for _ in range(number)]
        self.model.train()
        with self._autocast():
            inputs = self.model.data_preprocessor(_collate(batch), training=True)
            losses = self.model(**inputs, mode='loss') if isinstance(inputs, dict) else self.model(*inputs, mode='loss')
            total, _ = self.model.parse_losses(losses)
        total.backward()
        del others

    def restore(self) -> None:
        """Gives the model its weights and buffers back, and frees the memory."""
        self.model.zero_grad(set_to_none=True)
        self.model.load_state_dict(self.state)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _autocast(self) -> torch.autocast:
        wrapper = self.runner.cfg.optim_wrapper
        amp = wrapper.get('type') == 'AmpOptimWrapper'
        dtype = getattr(torch, wrapper.get('dtype') or 'float16') if amp else None
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=dtype, enabled=amp)


class kept_random_numbers:
    """A block after which random numbers go on as if it had drawn none."""

    def __enter__(self) -> None:
        self.states = random.getstate(), np.random.get_state()
        self.fork = torch.random.fork_rng()
        self.fork.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _fits_gpu(step: TrialStep) -> Callable[[int], bool]:
    free, _ = torch.cuda.mem_get_info()
    limit = SHARE * (free + torch.cuda.memory_reserved())

    def fits(number: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step(number)
            return torch.cuda.max_memory_reserved() <= limit
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            step.model.zero_grad(set_to_none=True)

    return fits


def _collate(batch: list[Any]) -> Any:
    """Returns a batch as MMEngine's `pseudo_collate` does; plain tensors, which have no data samples, are stacked."""
    if isinstance(batch[0], dict) and 'data_samples' in batch[0]:
        return {key: [sample[key] for sample in batch] for key in batch[0]}
    return default_collate(batch)


def _pixels(sample: Any) -> int:
    inputs = sample.get('inputs') if isinstance(sample, dict) else None
    return inputs.shape[-2:].numel() if isinstance(inputs, torch.Tensor) and inputs.ndim >= 2 else 0
