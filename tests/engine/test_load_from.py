"""Fine-tuning: what a checkpoint has loaded is reported, and one that loads nothing is an error."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmfocal.engine import FocalRunner
from mmfocal.errors import CheckpointError


class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.head = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))

    def forward(self, inputs, mode):
        return dict(loss=self.head(self.backbone(inputs)).square().mean())


def train(work_dir, path):
    runner = FocalRunner(
        Detector(),
        str(work_dir),
        dict(
            dataset=[dict(inputs=torch.ones(2))] * 4,
            batch_size=2,
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        load_from=str(path),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name=str(work_dir),
    )
    runner.train()
    return ''.join(file.read_text() for file in work_dir.glob('*/*.log'))


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('wrap', [dict, lambda state: dict(state_dict=state, meta={})])
def test_all_tensors(tmp_path, wrap, prefix):
    state = {prefix + name: value for name, value in Detector().state_dict().items()}
    torch.save(wrap(state), tmp_path / 'whole.pth')
    assert f'load_from {tmp_path}/whole.pth: 10 of 10 tensors loaded\n' in train(
        tmp_path / 'work', tmp_path / 'whole.pth'
    )


def test_new_groups(tmp_path):
    """Of another number of classes, and without statistics."""
    state = Detector().state_dict()
    state['head.1.weight'], state['head.1.bias'] = torch.zeros(7, 3), torch.zeros(7)
    del state['backbone.1.running_mean']
    torch.save(dict(state_dict=state), tmp_path / 'part.pth')
    log = train(tmp_path / 'work', tmp_path / 'part.pth')
    assert 'part.pth: 7 of 10 tensors loaded; new: backbone (1 of 6), head (2 of 4)\n' in log


@pytest.mark.parametrize('state', [{}, {'stages.0.weight': torch.zeros(2), 'fc.bias': torch.zeros(9)}, {'a': {'b': 1}}])
def test_nothing(tmp_path, state):
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='other.pth: load_from loads none of the 10 tensors .*backbone.init_cfg'):
        train(tmp_path / 'work', tmp_path / 'other.pth')


def test_a_model_whose_loading_renames(tmp_path, monkeypatch):
    """MMDetection's heads do, for files of earlier versions."""

    def renamed(self, state_dict, prefix, *args):
        state_dict.update({key.replace('old_', ''): state_dict.pop(key) for key in list(state_dict)})

    original = Detector.__init__

    def init(self):
        original(self)
        self._register_load_state_dict_pre_hook(lambda *args: renamed(self, *args))

    monkeypatch.setattr(Detector, '__init__', init)
    state = {f'old_{name}': value for name, value in Detector().state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    assert 'old.pth: 10 of 10 tensors loaded\n' in train(tmp_path / 'work', tmp_path / 'old.pth')
