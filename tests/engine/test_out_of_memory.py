"""A batch that does not fit ends in a sentence with its sizes and what to change."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmfocal.engine import explain_out_of_memory
from mmfocal.errors import OutOfMemoryError

BATCH = dict(inputs=[torch.zeros(3, 800, 1216), torch.zeros(3, 736, 1333)])


def runner(training=True, with_cp=False, batch_size=2, dtype=None):
    return SimpleNamespace(
        iter=6,
        cfg=Config(dict(model=dict(backbone=dict(type='FocalTransformer', with_cp=with_cp)))),
        model=SimpleNamespace(training=training),
        train_dataloader=SimpleNamespace(batch_size=batch_size),
        optim_wrapper=SimpleNamespace(cast_dtype=dtype) if dtype else object(),
    )


def explained(error, batch=BATCH, **how):
    with pytest.raises(OutOfMemoryError) as found, explain_out_of_memory(runner(**how), batch):
        raise error
    assert found.value.__cause__ is error and '\n' not in str(found.value)
    return str(found.value)


def test_what_a_gpu_says(monkeypatch):
    monkeypatch.setattr('mmfocal.engine.out_of_memory.get_device', lambda: 'cuda')
    error = torch.OutOfMemoryError(
        'CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of '
        '15.77 GiB of which 1.00 GiB is free.'
    )
    assert explained(error) == (
        'iteration 7: the GPU is out of memory (2.50 GiB more requested) with 2 images of 800x1216, 736x1333 '
        'pixels; set model.backbone.with_cp=True, or lower train_dataloader.batch_size and raise '
        'optim_wrapper.accumulative_counts by the same factor, or train with --amp, or resize to smaller images in '
        'train_pipeline'
    )
    done = explained(error, with_cp=True, batch_size=1, dtype=torch.bfloat16)
    assert done.endswith('pixels; resize to smaller images in train_pipeline')
    assert 'testing: the GPU is' in explained(error, training=False)
    assert 'test_dataloader.batch_size' in explained(error, training=False)
    for words in ('CUDA error: out of memory', 'CUDNN_STATUS_ALLOC_FAILED', 'CUBLAS_STATUS_ALLOC_FAILED'):
        assert 'GPU is out of memory with 2 images' in explained(RuntimeError(words))


def test_other_errors_and_other_batches():
    for error in (RuntimeError('shapes differ'), ValueError('out of memory')):
        with pytest.raises(type(error), match=str(error)), explain_out_of_memory(runner(), BATCH):
            raise error
    with explain_out_of_memory(runner(), BATCH):
        """Nothing happens."""
    for batch, words in (
        (dict(inputs=torch.zeros(4, 3, 64, 96)), '4 images of 64x96, 64x96, 64x96, 64x96 pixels'),
        (dict(inputs=[torch.zeros(3, 64, 96)]), '1 image of 64x96 pixels'),
        (dict(inputs=[1, 2]), 'a batch of 2'),
        ([BATCH], 'this batch'),
        (dict(x=1), 'this batch'),
    ):
        assert f'out of memory with {words}; ' in explained(MemoryError(), batch)


def test_numpy_without_memory():
    with pytest.raises(OutOfMemoryError, match=r'machine is out of memory \(64.0 PiB more requested\) with 2 images'):
        with explain_out_of_memory(runner(), BATCH):
            np.zeros(2**56, np.uint8)


TRAIN = """
import resource, sys, torch
from mmengine.model import BaseModel
from mmfocal.engine import FocalRunner, one_sentence_errors

class Large(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, inputs, mode):
        image = self.layer(inputs)
        return dict(loss=image.repeat(1, 1024, 8, 8).mean())

runner = FocalRunner(
    Large(), sys.argv[1], train_dataloader=dict(
        dataset=[dict(inputs=torch.ones(3, size, size)) for size in (4, 4, 256, 256)], batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate')),
    train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
runner.build_train_loop(runner._train_loop)
in_use = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, in_use + 2**30))
with one_sentence_errors():
    runner.train()
"""


@pytest.mark.slow
def test_a_machine_without_memory(tmp_path):
    """The second batch's 98304 MiB are not there: PyTorch's allocator is refused, for real."""
    done = subprocess.run(
        [sys.executable, '-c', TRAIN, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])},
    )
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        'error: iteration 2: the machine is out of memory (96.0 GiB more requested) with 2 images of 256x256, '
        '256x256 pixels; lower train_dataloader.batch_size and raise optim_wrapper.accumulative_counts by the same '
        'factor, or resize to smaller images in train_pipeline'
    )
