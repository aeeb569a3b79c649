"""DivergenceHook in real trainings: what is NaN or infinite reaches no weight and no checkpoint.

Run by torchrun, test_divergence.py WORK_DIR, it trains in several processes and prints what each says.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.structures import BaseDataElement
from torch import nn

from mmfocal.engine import DivergenceHook, FocalRunner
from mmfocal.errors import ConfigError, DivergenceError
from mmfocal.weights import load_checkpoint

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Spoil(torch.autograd.Function):
    """Its input, whose gradient becomes infinite."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float('inf')


class Norms(BaseModel):
    """Losses of a batch norm and a linear layer. A point of 666 has an infinite gradient, -1 a constant loss of NaN."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(2), nn.Linear(2, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = inputs if torch.is_tensor(inputs) else torch.stack(inputs)
        weight = Spoil.apply(self.layer.weight) if (inputs == 666).any() else self.layer.weight
        out = nn.functional.linear(self.norm(inputs), weight, self.layer.bias)
        constant = torch.tensor(float('nan') if (inputs == -1).any() else 1.0)
        return dict(loss_out=[out.square().mean(), out.abs().mean()], loss_constant=constant, acc=constant)


def train(
    work_dir,
    spoilt,
    hook=MappingProxyType({}),
    resume=False,
    launcher='none',
    cfg=None,
    model=None,
    param_scheduler=None,
    **optim_wrapper,
):
    """Three epochs of four batches of two points; `spoilt` are values by the number of the point."""
    points = [
        dict(
            inputs=torch.tensor([float(i), spoilt.get(i, 1.0 + i % 3)]),
            data_samples=BaseDataElement(metainfo=dict(img_id=100 + i, img_path=f'images/{i}.jpg')),
        )
        for i in range(8)
    ]
    runner = FocalRunner(
        model or Norms(),
        str(work_dir),
        dict(
            dataset=points,
            batch_size=2,
            collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        resume=resume,
        randomness=dict(seed=0),
        launcher=launcher,
        cfg=cfg or {},
        param_scheduler=param_scheduler,
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
        ),
        custom_hooks=[] if hook is None else [dict(type='DivergenceHook', **hook)],
        experiment_name=work_dir.name,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1), clip_grad=dict(max_norm=1), **optim_wrapper),
    )
    try:
        runner.train()
        error = None
    except DivergenceError as found:
        error = str(found)
    return runner, error


def is_finite(state_dict):
    return all(value.isfinite().all() for value in state_dict.values())


@pytest.mark.parametrize(
    'value, what',
    [
        (float('nan'), 'loss_out is nan'),
        (float('inf'), 'loss_out is nan'),
        (-1.0, 'loss_constant is nan'),
        (666.0, 'all losses are finite, but not the gradient of layer.weight'),
    ],
)
def test_training_stops_before_the_step(value, what, tmp_path):
    """At the third batch, though clipping makes one gradient's NaN that of all weights."""
    runner, error = train(tmp_path, {5: value})
    assert error.startswith(f'iteration 3: {what} (images 104 (images/4.jpg), 105 (images/5.jpg)); ')
    assert 'lower optim_wrapper.optimizer.lr' in error and 'no weight and no checkpoint has it' in error
    checkpoint = load_checkpoint((tmp_path / 'last_checkpoint').read_text())
    assert checkpoint['meta']['iter'] == 2 and is_finite(checkpoint['state_dict'])
    for name, weight in runner.model.named_parameters():
        assert weight.equal(checkpoint['state_dict'][name])
    resumed, error = train(tmp_path, {}, resume=True)  # with the image mended
    assert error is None and resumed.iter == 12


def test_without_the_hook_it_is_in_the_weights(tmp_path):
    """The control, with MMEngine's default hooks alone."""
    runner, error = train(tmp_path, {5: 666.0}, hook=None)
    assert error is None and not is_finite(load_checkpoint(tmp_path / 'iter_3.pth')['state_dict'])
    assert not is_finite(runner.model.state_dict())


def test_all_accumulated_batches_are_considered(tmp_path):
    _, error = train(tmp_path, {1: float('nan')}, accumulative_counts=2)
    assert error.startswith('iteration 2: loss_out is nan (images 100 (images/0.jpg), 101 (images/1.jpg)); ')
    _, error = train(tmp_path / 'gradient', {1: 666.0}, accumulative_counts=2)
    assert 'of layer.weight (images 100 (images/0.jpg), 101 (images/1.jpg), 102 (images/2.jpg), 103' in error


@pytest.mark.parametrize('value', [float('nan'), 666.0])
def test_steps_are_skipped_and_counted(value, tmp_path):
    runner, error = train(tmp_path, {5: value}, dict(skip=1))
    assert error is None and runner.iter == 12
    assert is_finite(runner.model.state_dict()), 'running statistics as well'
    before, after = (load_checkpoint(tmp_path / f'iter_{i}.pth') for i in (2, 3))
    for name, weight in before['state_dict'].items():
        assert weight.equal(after['state_dict'][name])
    steps = load_checkpoint(tmp_path / 'iter_12.pth')['optimizer']['state'][0]['step']
    assert steps == 12 - 3 and runner.message_hub.get_scalar('train/skipped_steps').current() == 3
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert (
        log.count('the step was skipped') == 3 and 'iteration 11: ' in log and 'the step was skipped, 3 so far' in log
    )
    scalars = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert scalars[-1]['skipped_steps'] == 3


def test_a_jump_stops_training_or_is_skipped(tmp_path):
    """Point 5 has a loss of some 1e12 in the third epoch, when there are ten steps to compare with."""

    class Large(Norms):
        calls = 0

        def forward(self, inputs, data_samples=None, mode='tensor'):
            losses = super().forward(inputs, data_samples, mode)
            Large.calls += 1
            return losses | dict(loss_rare=losses['loss_constant'] * (1e12 if Large.calls == 11 else 1.0))

    runner, error = train(tmp_path / 'control', {}, model=Large())
    assert error is None
    Large.calls = 0
    _, error = train(tmp_path / 'stops', {}, dict(jump=100), model=Large())
    assert (
        error.startswith('iteration 11: the loss is 1e+12, ')
        and 'times the median of the last steps (images 104' in error
    )
    Large.calls = 0
    runner, error = train(tmp_path / 'skips', {}, dict(jump=100, skip=1), model=Large())
    assert error is None and runner.message_hub.get_scalar('train/skipped_steps').current() == 1
    steps = load_checkpoint(tmp_path / 'skips/iter_12.pth')['optimizer']['state'][0]['step']
    assert steps == 11


@pytest.mark.parametrize('option', [dict(skip=-1), dict(skip='5'), dict(jump=1), dict(jump='100')])
def test_options_that_cannot_work(option):
    with pytest.raises(ConfigError, match=r'DivergenceHook: \w+=.* must be'):
        DivergenceHook(**option)


def test_schedules_know_that_steps_are_taken(tmp_path, recwarn):
    """PyTorch's warning of a schedule that is ahead of the optimizer would be wrong."""
    _, error = train(tmp_path, {}, param_scheduler=[dict(type='LinearLR', by_epoch=False, end=7)])
    assert error is None
    assert not [warning for warning in recwarn if 'optimizer.step()' in str(warning.message)]


def test_too_many_in_a_row(tmp_path):
    _, error = train(tmp_path, {3: 666.0, 5: 666.0, 7: 666.0}, dict(skip=2))
    assert error.startswith('iteration 4: all losses are finite') and 'and the 2 steps before it were skipped' in error


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """float16 with loss scaling where there is no GPU, which MMEngine asks for."""

    def __init__(self, init_scale, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler, self._scale_update_param = torch.amp.GradScaler('cpu', init_scale), None

    def optim_context(self, model):
        return torch.autocast('cpu', torch.float16)


def test_float16_finds_its_scale(tmp_path):
    """Steps that overflow are GradScaler's to leave out; the hook counts them, 20 in a row at most."""
    runner, error = train(tmp_path, {}, type='CPUAmpOptimWrapper', init_scale=2.0**24)
    skipped = runner.message_hub.get_scalar('train/skipped_steps').current()
    assert error is None and 0 < skipped < 12 and is_finite(runner.model.state_dict())
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0 ** (24 - skipped)
    state = load_checkpoint(tmp_path / 'iter_12.pth')['optimizer']['state']
    assert state[0]['step'] == 12 - skipped
    spoilt = dict.fromkeys(range(8), 666.0)
    _, error = train(tmp_path / 'never', spoilt, dict(skip=5), type='CPUAmpOptimWrapper', init_scale=2.0)
    assert error.startswith('iteration 6: ') and 'the 5 steps before it were skipped' in error


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path):
    """The gradients are finite, and the learning rate is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, 'step', infinite_step(at=3))
        _, error = train(tmp_path, {})
    assert 'norm.weight: this weight is not finite, it was not saved' in error
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')


def infinite_step(at, step=torch.optim.AdamW.step):
    calls = []

    def call(self, *args):
        calls.append(1)
        if len(calls) == at:
            self.param_groups[0]['lr'] = float('inf')
        step(self, *args)

    return call


@pytest.mark.slow
def test_the_tool_ends_with_the_sentence(shapes, tmp_path):
    """A learning rate at which the second loss is NaN, by itself."""
    options = [
        'optim_wrapper.optimizer.lr=1e30',
        'param_scheduler=[]',
        'model.backbone.arch.depths=(1,1,1,1)',
        *(
            f'{split}_dataloader.{option}'
            for split in ('train', 'val', 'test')
            for option in ('num_workers=0', 'persistent_workers=False')
        ),
    ]
    done = subprocess.run(
        [
            sys.executable,
            'tools/train.py',
            'configs/atss_focal_nano_shapes.py',
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            *options,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'SHAPES_ROOT': str(shapes)},
    )
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith('error: iteration 2: loss_cls is nan') and 'train2017/0' in sentence
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.slow
def test_all_processes_stop_or_skip_together(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / f'{rank}.txt').read_text().splitlines() for rank in range(2)]
    assert said[0] == said[1]
    images = '(images 105 (images/5.jpg), 107 (images/7.jpg))'  # of the second process
    assert [line.split(';')[0] for line in said[0][:3]] == [
        f'iteration 2: loss_out is nan {images}',
        f'iteration 2: loss_constant is nan {images}',
        'iteration 2: all losses are finite, but not the gradient of layer.weight (images 104 (images/4.jpg), '
        '106 (images/6.jpg), 105 (images/5.jpg), 107 (images/7.jpg))',
    ]
    assert said[0][3] == said[0][2]  # as FSDP
    assert said[0][4:] == ['6 iterations, 3 skipped, finite'] * 2


def main(work_dir):
    torch.distributed.init_process_group('gloo')
    cases = [(dict(hook={}), value) for value in (float('nan'), -1.0, 666.0)]
    sharded = dict(cfg=dict(fsdp_units=['BatchNorm1d']))
    cases += [(sharded, 666.0), (dict(hook=dict(skip=1)), -1.0), (dict(hook=dict(skip=1), **sharded), float('nan'))]
    said = []
    for number, (arguments, value) in enumerate(cases):
        runner, error = train(Path(work_dir, str(number)), {5: value}, launcher='pytorch', **arguments)
        if error is None:
            assert is_finite(runner.model.state_dict())
            skipped = runner.message_hub.get_scalar('train/skipped_steps').current()
            error = f'{runner.iter} iterations, {skipped} skipped, finite'
        said.append(error)
    Path(work_dir, f'{torch.distributed.get_rank()}.txt').write_text('\n'.join(said))
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(sys.argv[1])
