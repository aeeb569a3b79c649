import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.runner import Runner

from mmfocal.errors import OutOfMemoryError

# The words of CUDA, cuBLAS, cuDNN and PyTorch's CPU allocators, all in RuntimeErrors.
_WORDS = re.compile(
    r"out of memory|ALLOC_FAILED|can't allocate memory|not enough memory|std::bad_alloc|could not create a memory",
    re.IGNORECASE,
)
_SIZE = re.compile(r'[Tt]ried to allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)|Unable to allocate ([\d.]+ [KMGTP]?iB)')


@contextmanager
def explain_out_of_memory(runner: Runner, data_batch: dict | Sequence[Any]) -> Iterator[None]:
    """Reports the images in the batch, and what to change, when a step runs out of memory.

    Args:
        runner: Its config tells what can still be changed.
        data_batch: From the data loader, with the images as `inputs`.

    Raises:
        OutOfMemoryError: In place of PyTorch's, CUDA's or Python's own error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_explain(runner, data_batch, str(error))) from error


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error of PyTorch, CUDA or Python says that memory is short."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or bool(_WORDS.search(str(error)))


def _explain(runner: Runner, data_batch: Any, message: str) -> str:
    training = runner.model.training
    where = f'iteration {runner.iter + 1}' if training else 'testing'
    device = 'GPU' if get_device() == 'cuda' else 'machine'
    size = next((size for found in _SIZE.findall(message) for size in found if size), '')
    if size.endswith(' bytes'):
        size = f'{int(size[:-6]) / 2**30:.1f} GiB'
    requested = f' ({size} more requested)' if size else ''
    return f'{where}: the {device} is out of memory{requested} with {_images(data_batch)}; {_advice(runner, training)}'


def _images(data_batch: Any) -> str:
    """Returns '2 images of 800x1216, 736x1333 pixels', heights first."""
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    if not isinstance(inputs, (list, tuple)) and not isinstance(inputs, torch.Tensor):
        return 'this batch'
    images = [image for image in inputs if getattr(image, 'ndim', 0) >= 2]
    if not images:
        return f'a batch of {len(inputs)}'
    sizes = ', '.join(f'{height}x{width}' for height, width in (tuple(image.shape[-2:]) for image in images))
    return f'{len(images)} image{"s" * (len(images) > 1)} of {sizes} pixels'


def _advice(runner: Runner, training: bool) -> str:
    if not training:
        return 'lower test_dataloader.batch_size or val_dataloader.batch_size, or resize to smaller images'
    cfg, advice = runner.cfg, []
    backbone = cfg.get('model', {}).get('backbone', {})
    if backbone and not backbone.get('with_cp'):
        advice.append('set model.backbone.with_cp=True')
    if runner.train_dataloader.batch_size != 1:
        advice.append(
            'lower train_dataloader.batch_size and raise optim_wrapper.accumulative_counts by the same factor'
        )
    if get_device() == 'cuda' and not getattr(runner.optim_wrapper, 'cast_dtype', None):
        advice.append('train with --amp')
    advice.append('resize to smaller images in train_pipeline')
    return ', or '.join(advice)
