import argparse
import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import flex_attention

from mmfocal.benchmark.speed import command, implementations
from mmfocal.benchmark.speed.cases import Case, operator_work, preset_cases
from mmfocal.benchmark.speed.implementations import BACKBONES, OPERATORS, Implementation
from mmfocal.benchmark.speed.measure import Result, find_baseline
from mmfocal.benchmark.speed.steps import make_step
from mmfocal.errors import ConfigError

TINY = Case('backbone', 'train', 64, 64, arch='nano')


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        return [self.conv(x)]


def test_operators_compute_the_same():
    torch.manual_seed(0)
    case = Case('attention', 'forward', 64, 96, arch='nano', stage=0)
    heads, head_dim = case.heads
    q, k, v = torch.randn(3, 1, *case.map_size, heads, head_dim)
    pooled = torch.randn(2, 1, *case.layout.pooled_size(*case.map_size, 0), heads, head_dim)
    bias = torch.randn(heads, case.layout.tokens, case.layout.keys)
    outs = [
        OPERATORS[name].build(case, bias)(q, k, v, [tuple(pooled)])
        for name in ('focal', 'focal_reference', 'roll_unfold')
    ]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outs[2], outs[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size, stage', [((64, 96), 0), ((64, 96), 2), ((28, 100), 0), ((28, 28), 0)])
def test_flex_attention_computes_the_same(monkeypatch, size, stage):
    """Without compiling; a map of several windows, of a single row and of one window, and other pooled regions."""
    create_block_mask = flex_attention.create_block_mask
    monkeypatch.setattr(torch, 'compile', lambda function, **options: function)
    monkeypatch.setattr(
        flex_attention,
        'create_block_mask',
        lambda *args, _compile, **options: create_block_mask(*args, **options),
    )
    torch.manual_seed(0)
    case = Case('attention', 'forward', *size, batch=2, arch='nano', stage=stage)
    heads, head_dim = case.heads
    q, k, v = torch.randn(3, 2, *case.map_size, heads, head_dim)
    pooled = torch.randn(2, 2, *case.layout.pooled_size(*case.map_size, 0), heads, head_dim)
    bias = torch.randn(heads, case.layout.tokens, case.layout.keys)
    flex, expected = (
        OPERATORS[name].build(case, bias)(q, k, v, [tuple(pooled)]) for name in ('flex_attention', 'focal_reference')
    )
    torch.testing.assert_close(flex, expected, rtol=1e-4, atol=1e-5)


def test_operator_work():
    case = Case('attention', 'forward', 800, 1216, batch=8, dtype='bfloat16', stage=0)
    assert case.map_size == (203, 308) and case.heads == (3, 32) and case.layout.keys == 49 + 120 + 49
    flops, size = operator_work(case)
    tokens = 8 * 203 * 308
    assert flops == 2 * 2 * tokens * 96 * 218
    assert size == 2 * (4 * tokens * 96 + 2 * 8 * 29 * 44 * 96 + 3 * 49 * 218)
    assert operator_work(replace(case, mode='train')) == (3 * flops, 3 * size)


def test_step_leaves_no_gradients(monkeypatch):
    models = []

    def build(case):
        models.append(Maps())
        return models[-1]

    step = make_step(Implementation('', build), TINY)
    step()
    assert models[0].training and all(parameter.grad is None for parameter in models[0].parameters())
    make_step(Implementation('', build), replace(TINY, mode='forward', dtype='bfloat16'))()
    assert not models[1].training and models[1].conv.weight.dtype == torch.bfloat16
    make_step(Implementation('', build), replace(TINY, mode='forward', dtype='bfloat16', autocast=True))()
    assert models[-1].conv.weight.dtype == torch.float32
    make_step(Implementation('', build, casts=False), replace(TINY, mode='forward', dtype='bfloat16'))()
    assert models[2].conv.weight.dtype == torch.float32


@pytest.mark.parametrize('name, fused', [('swin_timm', False), ('swin_timm_fused', True)])
def test_arguments_of_timm(monkeypatch, name, fused):
    calls = []
    timm, layers = types.ModuleType('timm'), types.ModuleType('timm.layers')
    layers.set_fused_attn = lambda enable, experimental: calls.append((enable, experimental))
    timm.create_model = lambda *args, **kwargs: calls.append((*args, kwargs)) or Maps()
    monkeypatch.setitem(sys.modules, 'timm', timm)
    monkeypatch.setitem(sys.modules, 'timm.layers', layers)
    make_step(BACKBONES[name], Case('backbone', 'forward', 64, 96))()
    assert calls == [
        (True, fused),
        (
            'swin_tiny_patch4_window7_224',
            dict(
                features_only=True,
                img_size=(64, 96),
                drop_path_rate=0.0,
                embed_dim=96,
                depths=(2, 2, 6, 2),
                num_heads=(3, 6, 12, 24),
            ),
        ),
    ]


def test_torchvision_returns_the_stages(monkeypatch):
    class SwinTransformer(nn.Module):
        def __init__(self, **kwargs):
            super().__init__()
            assert kwargs == dict(
                patch_size=[4, 4],
                embed_dim=96,
                depths=[2, 2, 18, 2],
                num_heads=[3, 6, 12, 24],
                window_size=[7, 7],
                stochastic_depth_prob=0.0,
            )
            self.features = nn.Sequential(nn.AvgPool2d(4), *(nn.AvgPool2d(1 + i % 2) for i in range(7)))

    torchvision, models = types.ModuleType('torchvision'), types.ModuleType('torchvision.models')
    models.SwinTransformer = SwinTransformer
    monkeypatch.setitem(sys.modules, 'torchvision', torchvision)
    monkeypatch.setitem(sys.modules, 'torchvision.models', models)
    model = BACKBONES['swin_torchvision'].build(Case('backbone', 'forward', 64, 96, arch='small'))
    assert [tuple(out.shape[2:]) for out in model(torch.zeros(1, 3, 64, 96))] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_vil_of_the_size_that_the_paper_compares_with():
    model = BACKBONES['vil'].build(replace(TINY, width=96))
    assert [tuple(out.shape[1:]) for out in model(torch.zeros(1, 3, 64, 96))] == [
        (16, 16, 24),
        (32, 8, 12),
        (64, 4, 6),
        (128, 2, 3),
    ]
    with torch.device('meta'):
        archs = {arch: BACKBONES['vil'].build(replace(TINY, arch=arch)).arch for arch in ('tiny', 'small', 'base')}
    assert archs == dict(tiny='small', small='medium', base='base')
    with pytest.raises(ConfigError, match="ViL has no counterpart of 'large'; choose from tiny, small, base, nano"):
        BACKBONES['vil'].build(replace(TINY, arch='large'))


def test_a_broken_library_is_absent(monkeypatch):
    def broken(name):
        raise RuntimeError('operator torchvision::nms does not exist\nlong story')

    monkeypatch.setattr(implementations.importlib, 'import_module', broken)
    assert (
        implementations.import_error(BACKBONES['swin_torchvision'])
        == 'RuntimeError: operator torchvision::nms does not exist'
    )


def test_preset_cases_of_a_cpu():
    assert preset_cases('cpu') == [
        Case('backbone', 'forward', 800, 1216),
        Case('backbone', 'forward', 224, 224, batch=8),
        Case('backbone', 'train', 448, 448, batch=2),
    ]


@pytest.mark.parametrize('bf16, dtypes', [(True, ['bfloat16', 'float16']), (False, ['float16'])])
def test_preset_cases_of_a_gpu(monkeypatch, bf16, dtypes):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: bf16)
    found = preset_cases('cuda')
    common = dict(height=800, width=1216, batch=8, device='cuda', arch='tiny')
    assert all(getattr(case, key) == value for case in found for key, value in common.items())
    backbones = [(case.mode, case.dtype) for case in found if case.what == 'backbone']
    assert backbones == [*(('forward', dtype) for dtype in dtypes), ('train', dtypes[0])]
    attention = [(case.mode, case.stage, case.dtype) for case in found if case.what == 'attention']
    assert attention == [(mode, stage, dtypes[0]) for mode in ('forward', 'train') for stage in range(4)]


def test_blocks_are_recomputed():
    for name, with_cp in (('focal', False), ('focal_with_cp', True)):
        assert {stage.with_cp for stage in BACKBONES[name].build(TINY).stages} == {with_cp}
    for name, with_cp in (('swin_mmdet', False), ('swin_mmdet_with_cp', True)):
        blocks = [block for stage in BACKBONES[name].build(TINY).stages for block in stage.blocks]
        assert {block.with_cp for block in blocks} == {with_cp}


def test_recomputed_blocks_are_measured_if_named_and_are_no_baseline():
    args = argparse.Namespace(models=None, scaling=False, all=False, device='cuda')
    assert not [name for name in command.chosen_names(args, [TINY]) if name.endswith('with_cp')]
    args.models = ['focal', 'swin_mmdet_with_cp']
    assert command.chosen_names(args, [TINY]) == args.models
    results = [Result(name, name, [seconds]) for name, seconds in (('swin_mmdet_with_cp', 1.0), ('swin_timm', 2.0))]
    assert [find_baseline(results, device).name for device in ('cpu', 'cuda')] == ['swin_timm'] * 2
