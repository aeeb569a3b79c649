"""Resuming with other settings: a schedule is as if it had been used from the start, or the change is refused."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from torch import nn

from mmfocal.engine import FocalRunner
from mmfocal.engine.resumed_settings import fast_forward
from mmfocal.errors import CheckpointError, ConfigError

WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=7)
SHORT = [WARM_UP, dict(type='MultiStepLR', by_epoch=True, milestones=[2], gamma=0.1)]
LONG = [WARM_UP, dict(type='MultiStepLR', by_epoch=True, milestones=[4, 5], gamma=0.1)]
COSINE = [WARM_UP, dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, end=6, eta_min=0)]


class Linear(BaseModel):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, inputs, mode):
        return dict(loss=self.second(self.first(inputs)).square().mean())


class Rates(Hook):
    def __init__(self):
        self.seen, self.etas = {}, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen[runner.iter] = [group['lr'] for group in runner.optim_wrapper.param_groups]
        self.etas.append(runner.message_hub.get_info('eta') if 'eta' in runner.message_hub.runtime_info else 0)


def train(
    work_dir, schedule, epochs, batch=2, lr=0.1, resume=False, by_epoch=True, optimizer='SGD', decay=0.0, cfg=None
):
    """Epochs of 12 points; returns the runner, and the learning rates by iteration."""
    rates = Rates()
    runner = FocalRunner(
        Linear(),
        str(work_dir),
        dict(
            dataset=[dict(inputs=torch.ones(2) * i) for i in range(12)],
            batch_size=batch,
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=6 * epochs),
        resume=resume,
        randomness=dict(seed=0),
        cfg=cfg,
        optim_wrapper=dict(
            optimizer=dict(type=optimizer, lr=lr, weight_decay=decay),
            paramwise_cfg=dict(custom_keys=dict(second=dict(lr_mult=0.5, decay_mult=0.0))),
        ),
        param_scheduler=schedule,
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='SafeCheckpointHook', interval=1 if by_epoch else 6, by_epoch=by_epoch),
        ),
        custom_hooks=[rates],
        experiment_name=f'{work_dir} {epochs} {batch} {resume}',
    )
    runner.train()
    log = ''.join(path.read_text() for path in work_dir.glob('*/*.log'))
    return runner, rates, log


@pytest.mark.parametrize(
    'changed',
    [
        dict(schedule=LONG),
        dict(schedule=COSINE),
        dict(schedule=LONG, lr=0.3),
        dict(schedule=SHORT, decay=0.5),
        dict(schedule=LONG[:1]),
        dict(schedule=[*SHORT, dict(type='PolyLR', by_epoch=False, begin=20, end=36)]),
        dict(schedule=SHORT, batch=4),
        dict(schedule=LONG, batch=1),
        dict(schedule=COSINE, batch=3),
    ],
    ids=str,
)
def test_the_new_settings_are_as_if_used_from_the_start(changed, tmp_path):
    train(tmp_path / 'resumed', SHORT, 3)
    expected, rates, _ = train(tmp_path / 'whole', epochs=6, **changed)
    runner, resumed, log = train(tmp_path / 'resumed', epochs=6, resume=True, **changed)
    length = len(runner.train_dataloader)
    assert list(resumed.seen) == list(range(3 * length, 6 * length))
    for iteration, found in resumed.seen.items():
        assert found == pytest.approx(rates.seen[iteration], rel=1e-9)
    keys = ('weight_decay', 'initial_lr')
    groups = [[[group[key] for key in keys] for group in one.optim_wrapper.param_groups] for one in (runner, expected)]
    assert groups[0] == groups[1]
    assert 'resuming with other settings, as if training had used them from the start: ' in log
    assert min(resumed.etas) >= 0


def test_what_differs_is_in_the_log(tmp_path):
    train(tmp_path, SHORT, 2)
    _, _, log = train(tmp_path, COSINE, 3, batch=4, lr=0.2, resume=True)
    line = next(line for line in log.splitlines() if 'as if training' in line)
    for part in (
        'optimizer lr: 0.1 -> 0.2',
        'param_scheduler.1.milestones: [2] -> None',
        'an epoch has 3 iterations, so iteration 12 counts as 6',
        'learning rate ',
    ):
        assert part in line
    _, _, log = train(tmp_path / 'text', SHORT, 2, cfg=dict(model=dict(depth=1, width=3), work_dir='a'))
    _, _, log = train(tmp_path / 'text', SHORT, 3, cfg=dict(model=dict(depth=2, width=3), work_dir='b'), resume=True)
    assert 'which take effect from here on: model.depth: 1 -> 2\n' in log


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_same_settings_are_not_touched(by_epoch, tmp_path):
    schedule = [WARM_UP, dict(type='MultiStepLR', by_epoch=by_epoch, milestones=[2], end=30, gamma=0.1)]
    _, whole, _ = train(tmp_path / 'whole', schedule, 4, by_epoch=by_epoch)
    train(tmp_path / 'resumed', schedule, 2, by_epoch=by_epoch)
    _, resumed, log = train(tmp_path / 'resumed', schedule, 4, by_epoch=by_epoch, resume=True)
    assert {i: whole.seen[i] for i in resumed.seen} == resumed.seen and 'as if training' not in log


def test_a_schedule_by_iterations_counts_iterations(tmp_path):
    old = [WARM_UP, dict(type='PolyLR', by_epoch=False, begin=7, end=12, power=0.9)]
    new = [WARM_UP, dict(type='PolyLR', by_epoch=False, begin=7, end=24, power=0.9)]
    train(tmp_path / 'resumed', old, 2, by_epoch=False)
    _, whole, _ = train(tmp_path / 'whole', new, 4, batch=4, by_epoch=False)
    _, resumed, log = train(tmp_path / 'resumed', new, 4, batch=4, by_epoch=False, resume=True)
    assert list(resumed.seen) == list(range(12, 24)) and 'param_scheduler.1.end: 12 -> 24' in log
    for iteration, found in resumed.seen.items():
        assert found == pytest.approx(whole.seen[iteration], rel=1e-9)


def test_a_training_that_is_finished_says_so(tmp_path):
    train(tmp_path, SHORT, 3)
    _, rates, log = train(tmp_path, SHORT, 2, resume=True)
    assert not rates.seen and 'train_cfg.max_epochs=2: the checkpoint has 3 already, so nothing is left to train' in log


def test_another_optimizer_is_refused(tmp_path):
    train(tmp_path, SHORT, 2)
    with pytest.raises(CheckpointError, match='epoch_2.pth: saved with another optimizer, .* start from its weights'):
        train(tmp_path, SHORT, 3, optimizer='AdamW', resume=True)


def test_other_parameter_groups_are_refused(tmp_path):
    train(tmp_path, SHORT, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Linear, '__init__', one_layer)
        with pytest.raises(CheckpointError, match='epoch_2.pth: the optimizer has other parameter groups'):
            train(tmp_path, SHORT, 3, resume=True)


def one_layer(self):
    """A layer of the checkpoint that is frozen now is no group of the optimizer's."""
    BaseModel.__init__(self)
    self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
    self.first.requires_grad_(False)


def test_a_schedule_that_follows_metrics_is_refused(tmp_path):
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss', by_epoch=True, patience=1)
    train(tmp_path, [WARM_UP, plateau], 2)
    train(tmp_path, [WARM_UP, plateau], 3, resume=True)
    with pytest.raises(ConfigError, match='param_scheduler: ReduceOnPlateauLR follows the metrics'):
        train(tmp_path, [WARM_UP, dict(plateau, patience=5)], 4, resume=True)


def test_fast_forward_is_the_same_as_steps():
    """With many groups, of which two kinds are computed."""

    def build():
        groups = [dict(params=[nn.Parameter(torch.zeros(1))], lr=1e-4 * (1 + i % 2)) for i in range(300)]
        wrapper = OptimWrapper(torch.optim.SGD(groups, lr=1e-4))
        return wrapper, [
            LinearLR(wrapper, start_factor=0.1, end=50, by_epoch=False),
            PolyLR(wrapper, begin=50, end=1000, by_epoch=False),
        ]

    fast, schedulers = build()
    fast_forward(schedulers, fast, 200, None)
    slow, steps = build()
    slow.optimizer.step()
    for _ in range(200):
        for scheduler in steps:
            scheduler.step()
    assert [group['lr'] for group in fast.param_groups] == [group['lr'] for group in slow.param_groups]
    assert [scheduler.state_dict() for scheduler in schedulers] == [scheduler.state_dict() for scheduler in steps]
