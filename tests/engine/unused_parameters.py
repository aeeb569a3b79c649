"""A training by two processes of a model with a layer that has no gradient: unused_parameters.py WORK_DIR."""

import sys

import torch
from mmengine.model import BaseModel
from torch import nn

from mmfocal.engine import FocalRunner, one_sentence_errors


class Unused(BaseModel):
    def __init__(self):
        super().__init__()
        self.frozen, self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)

    def forward(self, inputs, mode):
        return dict(loss=self.used(self.frozen(inputs)).square().mean())


with one_sentence_errors():
    FocalRunner(
        Unused(),
        sys.argv[1],
        launcher='pytorch',
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(2))] * 8,
            batch_size=1,
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    ).train()
