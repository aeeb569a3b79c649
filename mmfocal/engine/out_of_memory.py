import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.runner import Runner

from mmfocal.errors import OutOfMemoryError

# The words of CUDA, cuBLAS, cuDNN, and of PyTorch's allocators on the CPU, all in RuntimeErrors.
_WORDS = re.compile(
    r"out of memory|ALLOC_FAILED|can't allocate memory|not enough memory|std::bad_alloc|"
    r'could not create a memory',
    re.IGNORECASE,
)
_SIZE = re.compile(
    r'[Tt]ried to allocate ([\d.]+ ?[KMGT]iB|\d+ bytes)|'
    r'Unable to allocate ([\d.]+ [KMGTP]?iB)'
)


@contextmanager
def explain_out_of_memory(runner: Runner, data_batch: dict | Sequence[Any]) -> Iterator[None]:
    """Says which images were in flight, and what to change, when a step runs out of memory.

    Args:
        runner (Runner): Whose config says what may still be changed.
        data_batch (dict | Sequence): What the data loader gave, with the images as `inputs`.

    Raises:
        OutOfMemoryError: In place of PyTorch's, CUDA's or Python's own error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if isinstance(error, OutOfMemoryError) or not is_known and not _WORDS.search(str(error)):
            raise
        raise OutOfMemoryError(_explain(runner, data_batch, str(error))) from error


def _explain(runner, data_batch, message):
    training = runner.model.training
    where = f'iteration {runner.iter + 1}' if training else 'testing'
    device = 'GPU' if get_device() == 'cuda' else 'machine'
    asked = next((size for found in _SIZE.findall(message) for size in found if size), '')
    if asked.endswith(' bytes'):
        asked = f'{int(asked[:-6]) / 2**30:.1f} GiB'
    asked = f' ({asked} more were asked for)' if asked else ''
    return f'{where}: the {device} is out of memory{asked} with {_images(data_batch)}; {_advice(runner, training)}'


def _images(data_batch) -> str:
    """'2 images of 800x1216, 736x1333 pixels', heights first."""
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    if not isinstance(inputs, (list, tuple)) and not isinstance(inputs, torch.Tensor):
        return 'this batch'
    images = [image for image in inputs if getattr(image, 'ndim', 0) >= 2]
    if not images:
        return f'a batch of {len(inputs)}'
    sizes = ', '.join(f'{height}x{width}' for height, width in (tuple(image.shape[-2:]) for image in images))
    return f'{len(images)} image{"s" * (len(images) > 1)} of {sizes} pixels'


def _advice(runner, training) -> str:
    if not training:
        return 'make test_dataloader.batch_size or val_dataloader.batch_size smaller, or the images of its pipeline'
    cfg, advice = runner.cfg, []
    backbone = cfg.get('model', {}).get('backbone', {})
    if backbone and not backbone.get('with_cp'):
        advice.append('set model.backbone.with_cp=True')
    if runner.train_dataloader.batch_size != 1:
        advice.append('make train_dataloader.batch_size smaller, with as many more optim_wrapper.accumulative_counts')
    if get_device() == 'cuda' and not getattr(runner.optim_wrapper, 'cast_dtype', None):
        advice.append('train with --amp')
    advice.append('make the images of train_pipeline smaller')
    return ', or '.join(advice)
