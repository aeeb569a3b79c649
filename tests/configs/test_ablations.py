"""The paper's ablations: configs that change the backbone alone; detectors load the weights of their classifiers."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark.paper.tables import paper_rows
from mmfocal.errors import ConfigError
from mmfocal.models import FocalTransformer

FOLDER = Path(__file__).parents[2] / 'configs'
FIGURE_5 = ('window_only', 'local', 'global')  # and focal_tiny, which has both
NAMES = sorted({row['name'] for row in paper_rows() if 'pretraining' in row and row['name'] != 'focal_tiny'})
NAMES += [f'focal_tiny_{name}' for name in FIGURE_5]
ARCH = dict(embed_dims=96, num_heads=(3, 6, 12, 24))
FOCAL = {  # changes of Mask R-CNN's backbone
    'focal_tiny_window14': dict(window_size=(14, 14, 14, 7)),
    'focal_tiny_shift': dict(use_shift=True),
    'focal_tiny_depths2222': dict(arch=dict(ARCH, depths=(2, 2, 2, 2))),
    'focal_tiny_depths2242': dict(arch=dict(ARCH, depths=(2, 2, 4, 2))),
    'focal_tiny_window_only': dict(focal_levels=(1, 1, 1, 1), expand_sizes=(0, 0, 0, 0)),
    'focal_tiny_local': dict(focal_levels=(1, 1, 1, 1)),
    'focal_tiny_global': dict(expand_sizes=(0, 0, 0, 0)),
}
SWIN = {
    'swin_tiny_window14': dict(window_size=(14, 14, 14, 7)),
    'swin_tiny_no_shift': dict(use_shift=False),
    'swin_tiny_depths2222': dict(depths=[2, 2, 2, 2]),
    'swin_tiny_depths2242': dict(depths=[2, 2, 4, 2]),
}
CHANGES = FOCAL | {name: dict(change, type='SwinVariant') for name, change in SWIN.items()}


CLASSIFIERS = FOCAL | {
    'focal_tiny_window14': dict(window_size=(14, 14, 14, 7), expand_sizes=(3, 3, 0, 0)),
    'swin_tiny_window14': dict(stage_cfgs=[dict(window_size=14)] * 3 + [dict(window_size=7)]),
    'swin_tiny_no_shift': dict(stage_cfgs=dict(block_cfgs=dict(shift=False))),
    'swin_tiny_depths2222': dict(arch=dict(ARCH, depths=(2, 2, 2, 2))),
    'swin_tiny_depths2242': dict(arch=dict(ARCH, depths=(2, 2, 4, 2))),
}


def load(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py').to_dict()
    return cfg, cfg['model'].pop('backbone')


@pytest.mark.parametrize('name', NAMES)
def test_detectors_differ_in_the_backbone_alone(name, monkeypatch):
    for variable in (name.upper(), 'FOCAL_TINY'):
        monkeypatch.delenv(variable, raising=False)
    cfg, backbone = load(f'mask_rcnn_{name}_1x')
    base_cfg, base = load(f'mask_rcnn_{name[: name.index("_tiny")]}_tiny_1x')
    assert cfg == base_cfg
    init_cfg = dict(type='Pretrained', checkpoint=f'unset:{name.upper()}')
    assert backbone == {**base, **CHANGES[name], 'init_cfg': init_cfg}
    monkeypatch.setenv(name.upper(), 'weights.pth')
    assert load(f'mask_rcnn_{name}_1x')[1]['init_cfg']['checkpoint'] == 'weights.pth'


@pytest.mark.parametrize('name', NAMES)
def test_classifiers_differ_in_the_backbone_alone(name):
    cfg, backbone = load(f'{name}_300e_imagenet')
    base_cfg, base = load(f'{name[: name.index("_tiny")]}_tiny_300e_imagenet')
    assert cfg == base_cfg and as_lists(backbone) == as_lists({**base, **CLASSIFIERS[name]})


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(one) for key, one in value.items()}
    return [as_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_every_change_is_a_config():
    assert sorted(CHANGES) == sorted(CLASSIFIERS) == sorted(NAMES)
    for pattern in ('{}_300e_imagenet.py', 'mask_rcnn_{}_1x.py'):
        assert not [name for name in NAMES if not (FOLDER / pattern.format(name)).is_file()]


@pytest.mark.parametrize('name', sorted(SWIN))
def test_detectors_load_the_weights_of_swins_classifiers(name, tmp_path, monkeypatch):
    """MMPretrain's Swin does not shift a window that covers the map, MMDetection's does: without shifts they agree."""
    cfg = Config.fromfile(FOLDER / f'{name}_300e_imagenet.py')
    init_default_scope(cfg.default_scope)
    classifier = MODELS.build(small(cfg.model.backbone))
    weights = {f'backbone.{name}': value for name, value in classifier.state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'classifier.pth')
    monkeypatch.setenv(name.upper(), str(tmp_path / 'classifier.pth'))
    cfg = Config.fromfile(FOLDER / f'mask_rcnn_{name}_1x.py')
    init_default_scope(cfg.default_scope)
    detector = MODELS.build(small(cfg.model.backbone))
    detector.init_weights()
    found = detector.state_dict()
    assert all(torch.equal(found[key], value) for key, value in classifier.state_dict().items())
    if name == 'swin_tiny_no_shift':
        classifier.eval()
        detector.eval()
        image = torch.rand(1, 3, 224, 224)
        torch.testing.assert_close(detector(image)[3], classifier(image)[0])


def small(backbone):
    """Makes the channels of either library's Swin few."""
    options = dict(embed_dims=8, num_heads=[1, 1, 2, 2])
    if backbone.type == 'SwinVariant':
        backbone.update(options)
    else:
        depths = backbone.arch['depths'] if isinstance(backbone.arch, dict) else [2, 2, 6, 2]
        backbone.arch = dict(options, depths=depths)
    return backbone


@pytest.mark.parametrize('name', ['mask_rcnn_focal_tiny_shift_1x', 'mask_rcnn_swin_tiny_no_shift_1x'])
def test_weights_are_asked_for_by_the_ablations_own_name(name, monkeypatch):
    variable = name[len('mask_rcnn_') : -len('_1x')].upper()
    monkeypatch.delenv(variable, raising=False)
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    init_default_scope(cfg.default_scope)
    with pytest.raises(ConfigError, match=f'set the environment variable {variable} to the path'):
        MODELS.build(cfg.model.backbone).init_weights()


def test_rings_that_a_classifier_lacks_are_new_in_its_detector(tmp_path):
    """At 224 pixels a window of 14 covers the map of stage 3, and one of 7 that of stage 4."""
    options = dict(arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)), window_size=(14, 14, 14, 7))
    classifier = FocalTransformer(**options, expand_sizes=(3, 3, 0, 0), out_indices=(3,))
    detector = FocalTransformer(**options)
    path = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict={f'backbone.{name}': value for name, value in classifier.state_dict().items()}), path)
    before = detector.state_dict()['stages.2.blocks.0.attn.ring_bias_table'].clone()
    detector.load_pretrained(str(path))
    after = detector.state_dict()
    assert torch.equal(after['stages.2.blocks.0.attn.ring_bias_table'], before)
    for name, value in classifier.state_dict().items():
        assert torch.equal(after[name], value)
