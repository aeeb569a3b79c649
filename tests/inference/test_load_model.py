"""`load_model`, also of checkpoints whose config would do harm if it were run."""

import socket
import subprocess
import sys

import pytest
import torch
from checkpoints import CLASSES, panoptic_config, save_checkpoint, shrink
from mmengine.config import Config

from mmfocal.cli import main
from mmfocal.engine import read_config
from mmfocal.engine.config_text import read_settings
from mmfocal.errors import CheckpointError, ConfigError, MissingFileError, UserError
from mmfocal.inference import load_model


def stock_config(kind):
    if kind == 'mmdet':
        cfg = read_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
        cfg.model.bbox_head.num_classes = 4
    else:
        cfg = read_config('mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py')
        cfg.model.decode_head.num_classes = 4
    return cfg


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    path = tmp_path_factory.mktemp('detector') / 'epoch_1.pth'
    return save_checkpoint(path, 'atss_focal_nano_shapes', dict(classes=CLASSES, palette=[(1, 2, 3)] * 4))


@pytest.mark.parametrize('kind', ['atss', 'mask_rcnn', 'upernet', 'panoptic', 'mmdet', 'mmseg'])
def test_models_of_all_kinds(tmp_path, kind):
    own = dict(
        atss='atss_focal_nano_shapes', mask_rcnn='mask_rcnn_focal_nano_shapes', upernet='upernet_focal_nano_shapes'
    )
    cfg = read_config(own[kind]) if kind in own else panoptic_config() if kind == 'panoptic' else stock_config(kind)
    classes = CLASSES if kind != 'upernet' else ('background', *CLASSES)
    saved = save_checkpoint(tmp_path / 'a.pth', cfg, dict(classes=classes))
    model, loaded = load_model(saved)
    assert not model.training and model.dataset_meta['classes'] == classes
    assert len(model.dataset_meta['palette']) == len(classes)
    weights = torch.load(saved, weights_only=True)['state_dict']
    torch.testing.assert_close(dict(model.state_dict()), dict(weights), rtol=0, atol=0)
    assert loaded.default_scope == cfg.default_scope and set(loaded) == {'default_scope', 'model', 'test_dataloader'}
    with_file, whole = load_model(saved, cfg)
    assert whole is cfg and str(with_file) == str(model)  # the same layers with the same settings


def test_saved_configs_are_read_as_they_were():
    cfg = Config(
        dict(a=(1, (2.5, None)), b=[dict(type='X', **{'odd key': (True,)})], c=float('inf'), d=-1e-7, e={3: ()})
    )
    settings = read_settings(cfg.pretty_text)
    assert settings == cfg.to_dict() and isinstance(settings['a'][1], tuple) and isinstance(settings['b'], list)
    for name in ('mask_rcnn_focal_tiny_3x', 'dino_focal_tiny_1x', 'upernet_focal_tiny_160k_ade20k'):
        cfg = read_config(name)
        assert read_settings(cfg.pretty_text) == cfg.to_dict()


@pytest.mark.parametrize(
    'text',
    [
        'import os',
        'a = open("x")',
        'a = [1 for _ in ()]',
        'a = dict(**{"b": 1})',
        'a =',
        '\0',
        'a: int = 1',
        'a = b = 1',
        'if 1:\n  a = 1',
        'a = f"{1}"',
        'a = ' + '(' * 500,
    ],
)
def test_text_other_than_a_saved_config_is_refused(text):
    with pytest.raises(ValueError):
        read_settings(text)


RUNS = '__import__("os").system("touch MARKER")'
# What to change in a config, and a part of the sentence.
HOSTILE = {
    'statement': (lambda cfg: None, 'plain data'),
    'scope': (lambda cfg: cfg.update(default_scope='evil'), 'default_scope'),
    'own type': (lambda cfg: cfg.model.update(type='evil.Model'), "model.type='evil.Model'"),
    'module': (lambda cfg: cfg.model.update(type='evil'), "model.type='evil'"),
    'function': (lambda cfg: cfg.model.update(neck=dict(type='os.system', command='touch MARKER')), 'os.system'),
    'lookalike': (lambda cfg: cfg.model.update(neck=dict(type='mmdet.models.FPN.__init__')), 'not registered'),
    'inner scope': (lambda cfg: cfg.model.neck.update(_scope_='evil'), '_scope_'),
    'nms': (lambda cfg: cfg.model.test_cfg.nms.update(type=RUNS), 'model.test_cfg.nms.type'),
    'evaluated': (
        lambda cfg: cfg.model.bbox_head.update(bbox_coder=dict(type='CameraMotionCompensation', warp_mode=RUNS)),
        'run code',
    ),
    'teacher': (lambda cfg: cfg.model.update(teacher_config='evil.py'), 'teacher_config'),
    'pickle': (lambda cfg: cfg.model.bbox_head.loss_cls.update(class_weight='evil.pkl'), 'evil.pkl'),
    'url': (lambda cfg: cfg.model.backbone.update(norm_cfg='http://127.0.0.1/evil'), 'names a file'),
    'transform': (
        lambda cfg: cfg.test_dataloader.dataset.pipeline.append(dict(type='builtins.exec', object='1')), 'builtins.exec'
    ),
    'unknown setting': (lambda cfg: cfg.model.neck.update(evil=1), 'evil'),
}  # fmt: skip


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_config_does_nothing(tmp_path, monkeypatch, detector, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'evil.py').write_text('open("MARKER", "w").close()\nmodel = dict(type="ATSS")\nclass Model: pass\n')
    change, words = HOSTILE[name]
    cfg = read_config('atss_focal_nano_shapes')
    change(cfg)
    text = cfg.pretty_text + (f'\nx = {RUNS}\n' if name == 'statement' else '')
    content = torch.load(detector, weights_only=True)
    content['meta']['cfg'] = text
    torch.save(content, 'evil.pth')
    with pytest.raises(UserError) as error:
        load_model('evil.pth')
    assert str(error.value).startswith('evil.pth: ') and words in str(error.value)
    assert not (tmp_path / 'MARKER').exists() and 'evil' not in sys.modules


def test_what_predicting_does_not_need_is_ignored(tmp_path, monkeypatch, detector):
    """Imports, weights to start from, backends, hooks and data sets have no effect; nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'evil.py').write_text('open("MARKER", "w").close()\n')
    cfg = read_config('atss_focal_nano_shapes')
    cfg.custom_imports = dict(imports=['evil'], allow_failed_imports=False)
    cfg.custom_hooks = [dict(type='evil.Hook')]
    cfg.load_from = 'http://127.0.0.1:9/evil.pth'
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='http://127.0.0.1:9/evil.pth')
    cfg.model.backbone.pretrained = 'evil.pth'
    cfg.test_dataloader.dataset.update(type='evil.Data', ann_file='evil.json')
    cfg.test_dataloader.dataset.pipeline[0].backend_args = dict(backend='evil')
    content = torch.load(detector, weights_only=True)
    content['meta']['cfg'] = cfg.pretty_text
    torch.save(content, 'a.pth')
    monkeypatch.setattr(socket.socket, 'connect', lambda *_: pytest.fail('it connects'))
    model, loaded = load_model('a.pth')
    assert model.dataset_meta['classes'] == CLASSES and 'init_cfg' not in loaded.model.backbone
    assert not (tmp_path / 'MARKER').exists() and 'evil' not in sys.modules


def test_classes_by_their_modules(tmp_path):
    """Configs that import save the modules of classes."""
    cfg = read_config('atss_focal_nano_shapes')
    cfg.model.type = 'mmdet.models.detectors.atss.ATSS'
    cfg.model.neck.type = 'mmdet.models.FPN'
    cfg.model.bbox_head.loss_bbox.type = 'mmdet.models.losses.GIoULoss'
    cfg.test_dataloader.dataset.pipeline[0].type = 'mmcv.transforms.LoadImageFromFile'
    saved = save_checkpoint(tmp_path / 'a.pth', 'atss_focal_nano_shapes', text=cfg.pretty_text)
    loaded = load_model(saved)[1]
    assert (loaded.model.type, loaded.model.neck.type) == ('mmdet.ATSS', 'mmdet.FPN')


def test_published_weights(tmp_path, monkeypatch, detector):
    for name in ('a.pth', 'b.safetensors'):
        monkeypatch.setattr(sys, 'argv', ['mmfocal', 'publish', str(detector), str(tmp_path / name)])
        main()
        (published,) = tmp_path.glob(f'{name[0]}-*')
        model, _ = load_model(published)
        assert model.dataset_meta['classes'] == CLASSES
        weights = torch.load(detector, weights_only=True)['state_dict']
        torch.testing.assert_close(dict(model.state_dict()), dict(weights), rtol=0, atol=0)


def test_checkpoints_of_other_kinds(tmp_path, detector):
    content = torch.load(detector, weights_only=True)
    weights = content['state_dict']
    backbone = {name.removeprefix('backbone.'): v for name, v in weights.items() if name.startswith('backbone.')}
    config = 'atss_focal_nano_shapes'
    nan = torch.full_like(weights['neck.fpn_convs.0.conv.bias'], float('nan'))
    cases = dict(
        bare=(weights, None, 'holds no config'),
        backbone=(dict(model=backbone), None, 'holds no config'),
        backbone_with_config=(dict(model=backbone), config, 'does not fit the model'),
        optimizer=(dict(state={}, param_groups=[]), config, 'holds no state dict'),
        other=(content, 'upernet_focal_nano_shapes', 'does not fit the model'),
        fewer=(content, 'atss_focal_tiny_3x', 'does not fit the model'),
        diverged=(dict(content, state_dict=weights | {'neck.fpn_convs.0.conv.bias': nan}), None, 'conv.bias has NaN'),
        empty_text=(dict(content, meta=dict(cfg='')), None, 'holds no config'),
        no_model=(dict(content, meta=dict(cfg='x = 1')), None, 'has no model'),
    )
    for name, (saved, cfg, words) in cases.items():
        torch.save(saved, tmp_path / f'{name}.pth')
        with pytest.raises(CheckpointError, match=f'{name}.pth: .*{words}'):
            load_model(tmp_path / f'{name}.pth', cfg)
    assert load_model(tmp_path / 'bare.pth', config)[0].dataset_meta['classes'] == CLASSES  # of the config
    with pytest.raises(MissingFileError, match='no such checkpoint'):
        load_model(tmp_path / 'absent.pth')
    with pytest.raises(ConfigError, match='has no model'):
        load_model(detector, Config(dict(default_scope='mmdet')))
    with pytest.raises(ConfigError, match='--device'):
        load_model(detector, device='cuda:99')


def test_class_names(tmp_path, detector):
    """Of the argument, the checkpoint, the config's `metainfo`, the data set's class; where the number fits."""
    assert load_model(detector, classes=list('abcd'))[0].dataset_meta['classes'] == tuple('abcd')
    with pytest.raises(ConfigError, match='3 names, but the model of .* has 4 classes'):
        load_model(detector, classes=list('abc'))
    cfg = read_config('atss_focal_nano_shapes')
    wrong = save_checkpoint(tmp_path / 'a.pth', cfg, dict(classes=('a', 'b')))
    assert load_model(wrong)[0].dataset_meta['classes'] == CLASSES
    older = torch.load(wrong, weights_only=True)
    del older['meta']['dataset_meta']
    torch.save(dict(older, meta=older['meta'] | dict(CLASSES=tuple('wxyz'))), tmp_path / 'b.pth')
    assert load_model(tmp_path / 'b.pth')[0].dataset_meta['classes'] == tuple('wxyz')
    del cfg.test_dataloader.dataset.metainfo
    assert load_model(save_checkpoint(tmp_path / 'c.pth', cfg))[0].dataset_meta['classes'][3] == 'class 3'
    cfg = read_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    names = load_model(save_checkpoint(tmp_path / 'd.pth', cfg))[0].dataset_meta['classes']
    assert len(names) == 80 and names[:2] == ('person', 'bicycle')


def test_importing_is_light():
    code = (
        'import sys, mmfocal, mmfocal.ops.focal_attention\n'
        'assert not {"mmengine", "mmcv", "cv2", "mmfocal.inference"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_a_small_pipeline_stays(tmp_path):
    cfg = panoptic_config()
    shrink(cfg, 96)
    loaded = load_model(save_checkpoint(tmp_path / 'a.pth', cfg))[1]
    scales = [step.scale for step in loaded.test_dataloader.dataset.pipeline if 'scale' in step]
    assert scales == [(96, 96)] and isinstance(scales[0], tuple)
