"""Swin Transformer's weights: the same function with `downsample='merge'`, and a start for Focal."""

import re

import pytest
import torch
from mmdet.models import SwinTransformer

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.models import FocalTransformer
from mmfocal.weights.backbone import load_backbone_weights
from mmfocal.weights.swin import _from_unfold_order, convert_swin, find_scheme
from mmfocal.weights.tables import extend_window_table, resize

ARCH = dict(embed_dims=12, depths=(2, 1, 3, 2), num_heads=(1, 2, 3, 4))
SWIN = dict(
    arch=ARCH,
    downsample='merge',
    focal_levels=(1, 1, 1, 1),
    expand_sizes=(0, 0, 0, 0),
    use_shift=True,
    drop_path_rate=0.0,
)
WIDE = dict(arch=ARCH, downsample='merge', use_shift=True)


@pytest.fixture(scope='module')
def swin():
    """MMDetection's Swin Transformer with random weights, norms and biases too."""
    torch.manual_seed(0)
    model = SwinTransformer(
        embed_dims=12, depths=(2, 1, 3, 2), num_heads=(1, 2, 3, 4), window_size=7, drop_path_rate=0.0
    ).double()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3)
    for name, param in model.named_parameters():
        if 'norm' in name and name.endswith('weight'):
            torch.nn.init.uniform_(param, 0.5, 1.5)
    model.eval()
    return model


def save(state_dict, path):
    torch.save(dict(state_dict=dict(state_dict)), path)
    return str(path)


def loaded(path, **kwargs):
    model = FocalTransformer(**kwargs).double()
    load_backbone_weights(model, path)
    return model.eval()


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize('size', [(512, 544), (505, 509), (460, 577)])  # no map is a single window: 15 tokens and more
def test_it_is_swin(swin, tmp_path, size):
    """All stages, forward and gradients, with odd sides at every stage."""
    model = loaded(save(swin.state_dict(), tmp_path / 'swin.pth'), **SWIN)
    torch.manual_seed(1)
    images = [torch.randn(1, 3, *size, dtype=torch.float64).requires_grad_() for _ in range(2)]
    images[1].data.copy_(images[0].data)
    outs, expected = model(images[0]), swin(images[1])
    assert len(outs) == len(expected) == 4
    for out, other in zip(outs, expected):
        assert relative_error(out, other) <= 1e-12
    weights = [torch.randn_like(out) for out in outs]
    for network, outputs in ((model, outs), (swin, expected)):
        network.zero_grad()
        sum((out * weight).sum() for out, weight in zip(outputs, weights)).backward()
    assert relative_error(images[0].grad, images[1].grad) <= 1e-12
    theirs = {name: param.grad for name, param in swin.named_parameters()}
    converted, _ = convert_swin(theirs, find_scheme(theirs))
    ours = {name: param.grad for name, param in model.named_parameters()}
    assert set(ours) == set(converted)
    for name, grad in ours.items():
        assert relative_error(grad, converted[name]) <= 1e-12, name


def official(state_dict):
    """MMDetection's parameters under the official names, merged channels in the official order."""
    names = {}
    for name, value in state_dict.items():
        if re.match('norm[012]', name):
            continue
        if 'downsample' in name:
            value = _from_unfold_order(value)
        for pattern, replacement in (
            ('^stages', 'layers'),
            ('projection', 'proj'),
            (r'\.w_msa', ''),
            (r'ffn\.layers\.0\.0', 'mlp.fc1'),
            (r'ffn\.layers\.1', 'mlp.fc2'),
            ('^norm3', 'norm'),
        ):
            name = re.sub(pattern, replacement, name)
        names[name] = value
    names['head.weight'] = torch.zeros(1000, 96)
    return names


def renamed(state_dict, *rules):
    names = {}
    for name, value in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        names[name] = value
    return names


def torchvision(state_dict):
    return renamed(
        official(state_dict),
        (r'^patch_embed\.proj', 'features.0.0'),
        (r'^patch_embed\.norm', 'features.0.2'),
        (r'^layers\.(\d)\.blocks', lambda match: f'features.{2 * int(match[1]) + 1}'),
        (r'^layers\.(\d)\.downsample', lambda match: f'features.{2 * int(match[1]) + 2}'),
        (r'mlp\.fc1', 'mlp.0'),
        (r'mlp\.fc2', 'mlp.3'),
    )


def timm(state_dict):
    """As of newer versions: the merging belongs to the next stage, and buffers are not saved."""
    names = renamed(
        official(state_dict),
        (r'^layers\.(\d)\.downsample', lambda match: f'layers.{int(match[1]) + 1}.downsample'),
        (r'^head\.', 'head.fc.'),
    )
    return {name: value for name, value in names.items() if 'relative_position_index' not in name}


def transformers(state_dict, version=4):
    names = renamed(
        official(state_dict),
        (r'^patch_embed\.proj', 'swin.embeddings.patch_embeddings.projection'),
        (r'^patch_embed\.norm', 'swin.embeddings.norm'),
        (r'^layers', 'swin.encoder.layers'),
        (r'\.norm1', '.layernorm_before'),
        (r'\.norm2', '.layernorm_after'),
        (r'\.attn\.proj', '.attention.output.dense'),
        (r'\.attn\.', '.attention.self.'),
        (r'\.mlp\.fc1', '.intermediate.dense'),
        (r'\.mlp\.fc2', '.output.dense'),
        (r'^norm', 'swin.layernorm'),
        (r'^head', 'classifier'),
    )
    for name in [name for name in names if '.qkv.' in name]:
        for part, value in zip(('query', 'key', 'value'), names.pop(name).chunk(3)):
            names[name.replace('qkv', part)] = value
    if version == 4:
        return names
    return renamed(
        names,
        (r'\.self\.(q|k|v)(uery|ey|alue)', r'.\1_proj'),
        (r'\.self\.', '.relative_position_bias.'),
        (r'attention\.output\.dense', 'attention.o_proj'),
        (r'\.intermediate\.dense', '.mlp.fc1'),
        (r'\.output\.dense', '.mlp.fc2'),
    )


SCHEMES = {
    'official': lambda state: dict(model=official(state)),
    'MMDetection': lambda state: dict(state_dict=dict(state)),
    'MMPretrain': lambda state: dict(state_dict=renamed(state, ('^', 'backbone.'))),
    'detector': lambda state: dict(state_dict=renamed(state, ('^', 'backbone.')) | {'neck.weight': torch.zeros(1)}),
    'torchvision': torchvision,
    'timm, old': official,
    'timm, new': timm,
    'Transformers 4': transformers,
    'Transformers 5': lambda state: transformers(state, 5),
}


@pytest.mark.parametrize('scheme', SCHEMES)
def test_every_naming_scheme(swin, tmp_path, scheme):
    state = {name: value for name, value in swin.state_dict().items() if not re.match('norm[012]', name)}
    torch.save(SCHEMES[scheme](state), tmp_path / 'swin.pth')
    model = loaded(str(tmp_path / 'swin.pth'), **SWIN, out_indices=(3,))
    image = torch.randn(1, 3, 512, 512, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(model(image)[0], swin(image)[3]) <= 1e-12


def test_focal_with_merging_starts_as_swin(swin, tmp_path, monkeypatch):
    """With a bias of −5 for new keys it computes nearly what Swin does; by default it is close."""
    path = save(
        {name: value * 0.1 if 'table' in name else value for name, value in swin.state_dict().items()},
        tmp_path / 'a.pth',
    )
    lines = []
    monkeypatch.setattr('mmfocal.weights.backbone.print_log', lambda line, *_, **__: lines.append(line))
    exact = loaded(path, **SWIN)
    image = torch.randn(1, 3, 512, 512, dtype=torch.float64)
    errors = []
    for bias in (None, -5, -10):
        model = FocalTransformer(**WIDE, init_cfg=dict(type='Pretrained', checkpoint=path, new_bias=bias))
        model.init_weights()
        with torch.no_grad():
            errors.append(relative_error(model.double().eval()(image)[0], exact(image)[0]))
    assert errors[0] > 5 * errors[1] > 25 * errors[2] > 0
    assert lines[-2].startswith(
        '  started so that Swin’s function is about kept: stages.*.blocks.*.attn.ring_bias_table'
    )


def test_new_parts(swin, tmp_path):
    model = loaded(save(swin.state_dict(), tmp_path / 'a.pth'), **WIDE)
    for stage in range(4):
        attn = model.stages[stage].blocks[0].attn
        assert attn.pooled_bias_tables[0].abs().sum() == 0 and attn.pool_layers[0].bias == 0
        assert (attn.pool_layers[0].weight == 1 / 49).all()
        window = attn.window_bias_table[:, attn.bias_index0].unflatten(2, (7, 7)).unflatten(1, (7, 7))
        ring = extend_window_table(attn.window_bias_table, 7, 120)
        assert torch.equal(attn.ring_bias_table, ring)
        # of the ring's first token, three rows above and three columns left of the window, to the window's last:
        # the table's corner, which is its bias to the window's first
        assert torch.equal(ring[:, -1, 0], window[:, 6, 6, 0, 0])
        # the first row of the ring that is level with the window: key (0, −3)
        key = 3 * 13
        assert torch.equal(ring[:, 0, key], window[:, 0, 3, 0, 0])


@pytest.mark.parametrize('options', [{}, dict(focal_levels=(1, 1, 1, 1), expand_sizes=(0, 0, 0, 0))])
def test_convolutions_from_swin_are_close(swin, tmp_path, options):
    model = loaded(save(swin.state_dict(), tmp_path / 'a.pth'), arch=ARCH, use_shift=True, **options)
    merging = loaded(str(tmp_path / 'a.pth'), **WIDE).stages[0].downsample
    x = torch.randn(2, 16, 16, 12, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(model.stages[0].downsample(x), merging(x)) < 0.5


def versions(state_dict, change):
    return {change(name): value for name, value in state_dict.items()}


@pytest.mark.parametrize(
    'change, sentence',
    [
        (lambda s: s | {'layers.0.blocks.0.attn.logit_scale': torch.ones(1, 1, 1)}, 'it is Swin V2, .*; use Swin .V1'),
        (lambda s: s | {'absolute_pos_embed': torch.ones(1, 1, 12)}, 'absolute position embeddings, .*; use weights w'),
        (
            lambda s: {k: torch.zeros(23**2, v.shape[1]) if k.endswith('bias_table') else v for k, v in s.items()},
            r'\(1, 529\) in the file and \(1, 169\) in the model; the file has window 12: set window_size=12, or ',
        ),
        (lambda s: {k: v for k, v in s.items() if 'layers.2.blocks.2' not in k}, 'it lacks stages.2.blocks.2'),
    ],
    ids=['V2', 'ape', 'window 12', 'shallower'],
)
def test_what_cannot_be_a_start(swin, tmp_path, change, sentence):
    path = save(change(official(swin.state_dict())), tmp_path / 'swin.pth')
    with pytest.raises(CheckpointError, match=f'swin.pth.*{sentence}') as error:
        loaded(path, **WIDE)
    assert '\n' not in str(error.value)


def test_other_stems_and_mergings(swin, tmp_path):
    path = save(swin.state_dict(), tmp_path / 'swin.pth')
    with pytest.raises(CheckpointError, match='the file has conv_embed=False, the model conv_embed=True'):
        loaded(path, arch=ARCH, conv_embed=True)
    merging = FocalTransformer(**WIDE)
    path = save(FocalTransformer(arch=ARCH).state_dict(), tmp_path / 'focal.pth')
    with pytest.raises(
        ConfigError, match='new_bias is for Swin checkpoints, .*focal.pth is an mmfocal checkpoint; rem'
    ):
        load_backbone_weights(merging, path, new_bias=-5.0)
    with pytest.raises(CheckpointError, match="downsample.norm.weight is .*; set downsample='conv'"):
        load_backbone_weights(merging, path)
    for options in (dict(conv_embed=True), dict(pre_norm=True)):
        with pytest.raises(ConfigError, match="downsample='merge' excludes"):
            FocalTransformer(arch=ARCH, downsample='merge', **options)
    with pytest.raises(ConfigError, match='downsample must be one of'):
        FocalTransformer(arch=ARCH, downsample='pool')


def test_window_8_from_window_7(swin, tmp_path):
    """On request only; a table that is linear in the offsets stays linear."""
    path = save(swin.state_dict(), tmp_path / 'swin.pth')
    with pytest.raises(CheckpointError, match='interpolate=True'):
        loaded(path, window_size=8, **WIDE)
    cfg = dict(type='Pretrained', checkpoint=path, interpolate=True)
    model = FocalTransformer(window_size=8, init_cfg=cfg, **WIDE)
    model.init_weights()
    assert model.stages[0].blocks[0].attn.window_bias_table.shape == (1, 225)
    with pytest.raises(ConfigError, match='init_cfg has no option interpolat; there are interpolate, new_bias'):
        FocalTransformer(init_cfg=dict(type='Pretrained', checkpoint=path, interpolat=True), **WIDE).init_weights()


@pytest.mark.parametrize('window_size, e', [(8, 3), (14, 3), (14, 7), (7, 2)])
def test_all_of_our_tables_interpolate(tmp_path, window_size, e):
    ours = FocalTransformer(arch=ARCH)
    for name, param in ours.named_parameters():
        if 'table' in name or 'pool_layers' in name:
            torch.nn.init.constant_(param, 0.25)
    path = save(ours.state_dict(), tmp_path / 'ours.pth')
    options = dict(arch=ARCH, window_size=window_size, expand_sizes=(e,) * 4)
    cfg = dict(type='Pretrained', checkpoint=path, interpolate=True)
    model = FocalTransformer(init_cfg=cfg, **options)
    model.init_weights()
    for name, param in model.named_parameters():
        if 'table' in name:  # a constant stays one
            torch.testing.assert_close(param, torch.full_like(param, 0.25))
        elif 'pool_layers' in name and name.endswith('weight'):  # their sum stays
            torch.testing.assert_close(param.sum(), torch.tensor(49 * 0.25))
    torch.testing.assert_close(model.patch_embed.proj.weight, ours.patch_embed.proj.weight)


def test_interpolation_keeps_a_slope():
    """A bias that falls with the distance in rows still does, by the same amount over the whole table."""
    ours = FocalTransformer(arch=ARCH)
    attn = ours.stages[0].blocks[0].attn
    rows = torch.arange(13.0)[:, None].expand(13, 13).reshape(1, -1)
    resized = resize('a.window_bias_table', rows, torch.Size([1, 225])).view(15, 15)
    torch.testing.assert_close(resized, resized[:, :1].expand(15, 15), atol=1e-5, rtol=0)
    assert (resized[1:, 0] > resized[:-1, 0]).all() and resized.min() > -0.5 and resized.max() < 12.5
    ring = extend_window_table(rows, 7, 120)
    assert resize('a.ring_bias_table', ring, torch.Size([1, 64, 132])).shape == (1, 64, 132)
    same = resize('a.ring_bias_table', ring, attn.ring_bias_table.shape)
    torch.testing.assert_close(same, ring, atol=1e-4, rtol=0)
