"""Swin with a window per stage and without shifts, from the classes of MMDetection."""

import pytest
import torch
from mmdet.models.backbones import SwinTransformer

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.models.swin_variant import SwinVariant

ARCH = dict(embed_dims=8, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 2), drop_path_rate=0.0)


def build(**options):
    torch.manual_seed(0)
    return started(SwinVariant(**ARCH, **options))


def started(model):
    model.init_weights()
    model.eval()  # which returns nothing
    return model


def test_without_changes_it_is_mmdetections():
    model = build()
    swin = started(SwinTransformer(**ARCH))
    swin.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 120, 150)
    assert all(map(torch.equal, model(image), swin(image)))


def test_window_per_stage():
    model = build(window_size=(14, 7, 5, 7))
    tables = [stage.blocks[1].attn.w_msa.relative_position_bias_table for stage in model.stages]
    assert [len(table) for table in tables] == [27**2, 13**2, 9**2, 13**2]
    assert [stage.blocks[1].attn.shift_size for stage in model.stages] == [7, 3, 2, 3]
    assert [stage.blocks[0].attn.shift_size for stage in model.stages] == [0] * 4
    swin = started(SwinTransformer(**ARCH, window_size=14))
    swin.load_state_dict(build(window_size=14).state_dict())
    image = torch.rand(1, 3, 224, 160)
    assert all(map(torch.equal, build(window_size=14)(image), swin(image)))


def test_without_shift_windows_do_not_see_each_other():
    image = torch.rand(1, 3, 56, 56)  # stage 1 has four windows
    changed = image.clone()
    changed[..., :28, :28] += 1
    for use_shift in (False, True):
        model = build(use_shift=use_shift, out_indices=(0,))
        same = (model(image)[0] == model(changed)[0]).all(1)[0]
        assert not same[:7, :7].any() and same[7:].all() == same[:, 7:].all() == (not use_shift)


def test_checkpoints(tmp_path):
    model, path = build(window_size=(14, 14, 14, 7), use_shift=False), str(tmp_path / 'classifier.pth')
    weights = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    weights = {
        name: value for name, value in weights.items() if not name.startswith('backbone.norm') or 'norm3' in name
    }
    torch.save(dict(state_dict={**weights, 'head.fc.weight': torch.zeros(1000, 64)}, meta={}), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    loaded = build(window_size=(14, 14, 14, 7), use_shift=False, init_cfg=init_cfg)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(image)[3], model(image)[3])
    with pytest.raises(CheckpointError, match=r'does not fit .*bias_table is \(729, 1\) in the file and \(169, 1\) in'):
        build(init_cfg=init_cfg)
    deeper = SwinVariant(**{**ARCH, 'depths': (2, 2, 4, 2)}, window_size=(14, 14, 14, 7), init_cfg=init_cfg)
    with pytest.raises(CheckpointError, match='it lacks stages.2.blocks.2.norm1.weight'):
        deeper.init_weights()
    shallower = SwinVariant(**{**ARCH, 'depths': (2, 2, 1, 2)}, window_size=(14, 14, 14, 7), init_cfg=init_cfg)
    with pytest.raises(CheckpointError, match='the model has no stages.2.blocks.1.norm1.weight'):
        shallower.init_weights()


def test_the_authors_checkpoints(tmp_path):
    """Their names, and their order of the four patches that are merged."""
    model, path = build(), str(tmp_path / 'swin.pth')
    theirs = {}
    for name, value in model.state_dict().items():
        for ours, other in (
            ('stages', 'layers'),
            ('attn.w_msa', 'attn'),
            ('ffn.layers.0.0', 'mlp.fc1'),
            ('ffn.layers.1', 'mlp.fc2'),
            ('projection', 'proj'),
        ):
            name = name.replace(ours, other) if ours != 'projection' or name.startswith('patch_embed') else name
        if 'downsample' in name:  # ours: channel, then patch; theirs: patch, then channel, columns before rows
            value = value.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)
        theirs[name] = value
    torch.save(dict(model=theirs), path)
    torch.manual_seed(1)
    loaded = started(SwinVariant(**ARCH, init_cfg=dict(type='Pretrained', checkpoint=path)))
    image = torch.rand(1, 3, 64, 64)
    assert all(map(torch.equal, loaded(image), model(image)))


def test_bad_arguments():
    with pytest.raises(ConfigError, match='set the environment variable SWIN_TINY_WINDOW14 to the path or URL'):
        build(init_cfg=dict(type='Pretrained', checkpoint='unset:SWIN_TINY_WINDOW14'))
    assert build(init_cfg=dict(type='Pretrained', checkpoint='none')).init_cfg['checkpoint'] == 'none'
    with pytest.raises(ConfigError, match='window_size must have 4 entries, one per stage'):
        build(window_size=(7, 7))
    with pytest.raises(ConfigError, match='window_size must be a positive integer, got 0'):
        build(window_size=(7, 7, 0, 7))
