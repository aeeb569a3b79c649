"""A training by two processes: small_training.py WORK_DIR HOW --launcher pytorch.

HOW: the second is killed, raises, or lives. At its exit each prints how many threads gloo has left.
"""

import atexit
import os
import signal
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmfocal.engine import FocalRunner


class Linear(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(inputs).square().mean())


class Points(Dataset):
    def __init__(self, broken):
        self.broken = broken

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 51 and self.broken:  # the second process has the odd ones
            raise ValueError('point 51 is broken')
        return dict(inputs=torch.ones(2) * index)


class Dies(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and batch_idx == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def count_threads():
    names = [file.read_text() for file in Path('/proc/self/task').glob('*/comm')]
    print('threads of gloo:', sum('gloo' in name for name in names), flush=True)


atexit.register(count_threads)
work_dir, how = sys.argv[1:3]
FocalRunner(
    Linear(),
    work_dir,
    launcher='pytorch',
    custom_hooks=[Dies()] if how == 'killed' else [],
    train_dataloader=dict(
        dataset=Points(how == 'raises'),
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    ),
    train_cfg=dict(by_epoch=True, max_epochs=1),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
).train()
