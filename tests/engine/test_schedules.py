"""The schedule of ImageNet's recipe, against timm's."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from timm.scheduler import CosineLRScheduler
from torch import nn

from mmfocal.engine import WarmupCosineLR

EPOCHS, WARMUP, LENGTH = 15, 2, 7  # iterations per epoch


def make_optimizer():
    optimizer = dict(type='AdamW', lr=2e-3)
    return build_optim_wrapper(nn.Linear(2, 2), dict(type='OptimWrapper', optimizer=optimizer))


def build(optimizer):
    cfg = dict(type='WarmupCosineLR', warmup=WARMUP, end=EPOCHS, by_epoch=True, convert_to_iter_based=True)
    return PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer, epoch_length=LENGTH))


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return found


def test_rates_are_timms():
    optimizer = make_optimizer()
    ours = rates(optimizer, build(optimizer), EPOCHS * LENGTH)
    timms = CosineLRScheduler(
        torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=2e-3),
        t_initial=EPOCHS * LENGTH,
        lr_min=2e-5,
        warmup_lr_init=2e-6,
        warmup_t=WARMUP * LENGTH,
        t_in_epochs=False,
        cycle_limit=1,
    )
    for step, rate in enumerate(ours):
        timms.step_update(step)
        assert rate == pytest.approx(timms.optimizer.param_groups[0]['lr'], rel=1e-12)
    assert ours[0] == pytest.approx(2e-6) and max(ours) < 2e-3


def test_state_restores_it():
    optimizer, other = make_optimizer(), make_optimizer()
    scheduler, restored = build(optimizer), build(other)
    rates(optimizer, scheduler, 20)
    restored.load_state_dict(scheduler.state_dict())
    other.param_groups[0]['lr'] = optimizer.param_groups[0]['lr']
    assert rates(other, restored, 30) == rates(optimizer, scheduler, 30)


def test_by_epoch():
    optimizer = make_optimizer()
    found = rates(optimizer, WarmupCosineLR(optimizer, warmup=2, end=4), 5)
    assert found == pytest.approx([2e-6, 1.001e-3, 1.01e-3, 2e-3 * (0.01 + 0.99 * (1 - 0.5**0.5) / 2), found[3]])
