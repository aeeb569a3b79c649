"""A small training in which everything is random, also as a command: random_training.py WORK_DIR KEY=VALUE...

After `until` iterations `kill` is called; as the command, a SIGTERM then goes to all of its processes.
"""

import ast
import os
import random
import subprocess
import sys
import time

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.utils.data import Dataset

from mmfocal.engine import FocalRunner


class Noise(Dataset):
    metainfo = dict(classes=('noise',))

    def __init__(self, log=None):
        self.log = log  # a file, for indices that are read

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if self.log:
            with open(self.log, 'a') as file:
                file.write(f'{index}\n')
        values = [index, random.random(), np.random.rand(), torch.rand(1).item()]
        return dict(inputs=torch.tensor(values), number=index)


class RandomNet(BaseModel):
    def __init__(self, ballast):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer('ballast', torch.zeros(ballast, 2**18))  # MiB
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, inputs, number, mode):
        if mode == 'predict':
            torch.rand(3), random.random(), np.random.rand()  # as a validation may do
            return [self.layers(inputs)]
        noise = torch.rand(1).item() + random.random() + np.random.rand()
        return dict(loss=(self.layers(inputs) - noise).square().mean())


class Mean(BaseMetric):
    in_evaluation = None  # called with each batch

    def process(self, data_batch, data_samples):
        if Mean.in_evaluation:
            Mean.in_evaluation()
        self.results += [sample.mean().item() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(mean=float(np.mean(results)))


class Killed(Exception):
    pass


class KillHook(Hook):
    priority = 'LOWEST'

    def __init__(self, until, kill):
        self.until, self.kill = until, kill

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.until and runner.rank == 0:
            self.kill()


@OPTIM_WRAPPERS.register_module(force=True)
class CpuAmpOptimWrapper(AmpOptimWrapper):
    """MMEngine's asks for a GPU; the scaler, whose state is what matters here, works without."""

    def __init__(self, **kwargs):
        super(AmpOptimWrapper, self).__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=64.0, growth_interval=3)
        self._scale_update_param, self.cast_dtype = None, None

    def optim_context(self, model):
        return super(AmpOptimWrapper, self).optim_context(model)


def kill():
    raise Killed


def train(
    work_dir,
    by_epoch=True,
    until=None,
    workers=0,
    ema=False,
    amp=False,
    accumulate=1,
    batch_size=4,
    log=None,
    kill=kill,
    resume=True,
    seed=3,
    val=True,
    runner_type=FocalRunner,
    hook='SafeCheckpointHook',
    checkpoint=None,
    hooks=(),
    load_from=None,
    launcher='none',
    ballast=0,
):
    """15 iterations in 3 epochs of 5; a checkpoint each epoch, or each 4 iterations."""
    loader = dict(
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=dict(type='default_collate'),
    )
    length, interval = (dict(max_epochs=3), 1) if by_epoch else (dict(max_iters=15), 4)
    custom_hooks = [KillHook(until, kill), *hooks]
    if ema:
        custom_hooks.append(dict(type='EMAHook', update_buffers=True))
    more = dict()
    if val:
        more = dict(
            val_dataloader=dict(dataset=Noise(), sampler=dict(type='DefaultSampler', shuffle=False), **loader),
            val_evaluator=dict(type=Mean),
            val_cfg=dict(),
        )
    runner = runner_type(
        RandomNet(ballast),
        str(work_dir),
        resume=resume,
        load_from=load_from,
        launcher=launcher,
        randomness=dict(seed=seed),
        experiment_name=f'{work_dir} {until}',
        train_dataloader=dict(
            dataset=Noise(log),
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True),
            **loader,
        ),
        train_cfg=dict(by_epoch=by_epoch, val_interval=interval, **length),
        optim_wrapper=dict(
            type='CpuAmpOptimWrapper' if amp else 'OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.01),
            accumulative_counts=accumulate,
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=7),
            dict(type='CosineAnnealingLR', by_epoch=True, T_max=3, convert_to_iter_based=by_epoch, epoch_length=5),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type=hook,
                interval=interval,
                by_epoch=by_epoch,
                max_keep_ckpts=2,
                save_best='mean' if val else None,
                rule='greater' if val else None,
            )
            | (checkpoint or {}),
        ),
        custom_hooks=custom_hooks,
        **more,
    )
    runner.train()
    return runner


def kill_group():
    """A SIGTERM to all processes from another one, as a cluster's."""
    command = f'import os, signal; os.killpg({os.getpgid(0)}, signal.SIGTERM)'
    subprocess.run([sys.executable, '-c', command], start_new_session=True)
    time.sleep(1)


if __name__ == '__main__':
    torch.set_num_threads(1)
    options = {name: ast.literal_eval(value) for name, value in (word.split('=', 1) for word in sys.argv[2:])}
    train(sys.argv[1], kill=kill_group, **options)
