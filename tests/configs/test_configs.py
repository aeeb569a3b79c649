"""Every config of configs/ is built, trains a step and predicts; none is forgotten."""
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import mmfocal.registration  # noqa: F401

CONFIGS = sorted((Path(__file__).parents[2] / 'configs').glob('*.py'))


@pytest.fixture(autouse=True)
def from_scratch(monkeypatch):
    monkeypatch.setenv('FOCAL_TINY', 'none')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_trains_a_step_and_predicts(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1., 1.), batch_input_shape=(64, 96)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8., 8., 40., 48.]]), labels=torch.tensor([1]))
    data = dict(inputs=[torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)], data_samples=[sample])
    losses = model.train().train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(value.isfinite() for value in losses.values()) and losses['loss'] > 0
    with torch.no_grad():
        predicted = model.eval().test_step(data)[0].pred_instances
    assert predicted.bboxes.shape == (len(predicted), 4)


def test_detectors_differ_in_backbone_and_neck_only():
    configs = [Config.fromfile(path).to_dict() for path in CONFIGS if path.stem in ('atss_focal_tiny_3x', 'atss_swin_tiny_3x', 'atss_r50_3x')]
    for cfg in configs:
        assert cfg['model'].pop('backbone')['out_indices'] == (1, 2, 3)
        cfg['model']['neck'].pop('in_channels')
    assert len(configs) == 3 and configs[0] == configs[1] == configs[2]


def test_schedule_and_decay():
    cfg = Config.fromfile(CONFIGS[0].parent / 'atss_focal_tiny_3x.py')
    assert cfg.train_cfg.max_epochs == 36 and cfg.param_scheduler[1].milestones == [27, 33]
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    undecayed = set()
    for group in optimizer.param_groups:
        assert group['lr'] == 1e-4 and group['weight_decay'] in (0., 0.05)
        if not group['weight_decay']:
            undecayed.update(names[id(p)] for p in group['params'])
    expected = {name for name in names.values() if 'bias_table' in name or '.norm' in name or '.gn.' in name}
    assert undecayed == expected and len(expected) > 100
    drop_paths = [block.drop_path for stage in model.backbone.stages for block in stage.blocks]
    assert drop_paths[0] == 0 and drop_paths[-1] == pytest.approx(0.3)


def test_coco_root(monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/somewhere/coco')
    cfg = Config.fromfile(CONFIGS[0].parent / 'atss_r50_3x.py')
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == '/somewhere/coco'
    assert cfg.val_evaluator.ann_file == '/somewhere/coco/annotations/instances_val2017.json'
    monkeypatch.delenv('COCO_ROOT')
    assert Config.fromfile(CONFIGS[0].parent / 'atss_r50_3x.py').val_dataloader.dataset.data_root == 'data/coco/'
