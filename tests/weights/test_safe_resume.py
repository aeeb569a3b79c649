"""MMEngine's checkpoints: a Runner saves, loads and resumes with `weights_only`."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmfocal.weights import load_checkpoint, register_safe_loaders


class Numbers(Dataset):
    metainfo = dict(classes=('a', 'b'), palette=np.arange(6, dtype=np.uint8).reshape(2, 3))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.full((3,), float(index)))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layers(torch.stack(inputs)).square().mean())


def train(work_dir, max_epochs, **kwargs):
    """Returns a Runner with the hooks and schedules of the configs, after training and saving."""
    register_safe_loaders()
    runner = Runner(
        Model(),
        str(work_dir),
        dict(
            dataset=Numbers(),
            batch_size=2,
            collate_fn=dict(type='pseudo_collate'),
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
            clip_grad=dict(max_norm=1),
            paramwise_cfg=dict(norm_decay_mult=0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3),
            dict(type='MultiStepLR', milestones=[1, 3]),
        ],
        custom_hooks=[dict(type='EMAHook')],
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
        **kwargs,
    )
    runner.message_hub.update_info('best_score', np.float64(0.25))  # as NumPy metrics leave it
    runner.train()
    runner.path = str(work_dir / f'epoch_{max_epochs}.pth')
    return runner


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp('trained'), 1)


def same(a, b):
    if isinstance(a, HistoryBuffer):
        return type(a) is type(b) and same(a.data, b.data)
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_checkpoint_loads_as_saved(trained, tmp_path):
    loaded = load_checkpoint(trained.path)
    scalars = loaded['message_hub']['log_scalars']
    assert len(scalars['train/loss'].data[0]) == 2 and scalars['train/loss'].statistics('mean') > 0
    assert same(scalars, trained.message_hub.state_dict()['log_scalars'])
    assert same(loaded['message_hub']['runtime_info']['best_score'], np.float64(0.25))
    assert same(loaded['optimizer'], trained.optim_wrapper.state_dict())
    assert same(loaded['param_schedulers'], [scheduler.state_dict() for scheduler in trained.param_schedulers])
    assert same(loaded['meta']['dataset_meta'], Numbers.metainfo) and loaded['meta']['epoch'] == 1
    # EMAHook saves the trained model as ema_state_dict
    trained = {f'module.{name}': value for name, value in trained.model.state_dict().items()}
    assert same({name: loaded['ema_state_dict'][name] for name in trained}, trained)
    # saved once more, with what AmpOptimWrapper adds
    loaded['optimizer']['loss_scaler'] = torch.amp.GradScaler('cpu').state_dict()
    torch.save(loaded, tmp_path / 'again.pth')
    assert same(load_checkpoint(tmp_path / 'again.pth'), loaded)


@pytest.mark.parametrize('module', [b'numpy.core', b'numpy._core'])
def test_arrays_of_numpy_1_and_2(tmp_path, module):
    arrays = dict(
        buffers=[HistoryBuffer([1.5, 2], [1, 2]), HistoryBuffer()],
        swapped=np.arange(3, dtype='>i4'),
        empty=np.zeros((0, 2)),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        flags=np.array([True, False]),
        numbers=[np.float32(0.5), np.int64(-3), np.bool_(True)],
    )
    torch.save(arrays, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'a.pth').write_bytes(content.replace(b'numpy._core', module).replace(b'numpy.core', module))
    loaded = load_checkpoint(tmp_path / 'a.pth')
    assert same(loaded, pickle.loads(pickle.dumps(arrays, 2)))
    assert type(pickle.loads(pickle.dumps(loaded['fortran']))) is np.ndarray


def test_resume_continues_and_does_not_run_a_config(trained, tmp_path, capsys):
    marker, checkpoint = tmp_path / 'ran', load_checkpoint(trained.path)
    checkpoint['meta']['config'] = f"open({str(marker)!r}, 'w').close()"
    torch.save(checkpoint, tmp_path / 'poisoned.pth')
    resumed = train(tmp_path / 'work', 2, resume=True, load_from=str(tmp_path / 'poisoned.pth'))
    assert not marker.exists() and "meta['config']" in ''.join(capsys.readouterr())
    assert resumed.epoch == 2 and resumed.iter == 4
    losses, first = (r.message_hub.get_scalar('train/loss').data[0] for r in (resumed, trained))
    assert len(losses) == 4 and list(losses[:2]) == list(first)
    assert load_checkpoint(resumed.path)['optimizer']['state'][0]['step'] == 4
    Config.fromstring(checkpoint['meta']['config'], file_format='.py')  # as MMEngine does on resuming
    assert marker.exists()


def test_a_config_is_dropped_even_if_the_file_hides_methods(tmp_path):
    checkpoint = OrderedDict(meta=OrderedDict(config='run me', epoch=1))
    for level in (checkpoint, checkpoint['meta']):
        level.get = level.pop = level.__contains__ = level.__delitem__ = torch.Size
    torch.save(checkpoint, tmp_path / 'hidden.pth')
    loaded = load_checkpoint(tmp_path / 'hidden.pth')
    assert loaded.pop is torch.Size and list(loaded['meta']) == ['epoch']


def test_the_allow_list_holds_for_one_load(trained):
    load_checkpoint(trained.path)
    with pytest.raises(pickle.UnpicklingError, match='GLOBAL'):
        torch.load(trained.path, weights_only=True)
