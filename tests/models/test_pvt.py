"""PVT with a class token: the released computation and names, its start, bad arguments."""

import pytest
import torch
import torch.nn.functional as F

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.models.pvt import PVTClassifier

NANO = dict(embed_dims=8, num_layers=[1, 1, 2, 2], pretrain_img_size=64)
DIMS, HEADS, RATIOS, REDUCTIONS = (8, 16, 40, 64), (1, 2, 5, 8), (8, 8, 4, 4), (8, 4, 2, 1)


def released_weights() -> dict[str, torch.Tensor]:
    """Returns random weights under the released names."""
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        weights[name] = torch.randn(shape, generator=generator) * scale + ('norm' in name and 'weight' in name)

    for s, (dim, ratio, reduction) in enumerate(zip(DIMS, RATIOS, REDUCTIONS), 1):
        side = 4 if s == 1 else 2
        add(f'patch_embed{s}.proj.weight', dim, 3 if s == 1 else DIMS[s - 2], side, side)
        add(f'pos_embed{s}', 1, (64 // 2 ** (s + 1)) ** 2 + (s == 4), dim)
        named = [(f'patch_embed{s}.norm', dim), (f'patch_embed{s}.proj', dim)]
        for b in range(NANO['num_layers'][s - 1]):
            block = f'block{s}.{b}'
            linears = {'attn.q': (dim, dim), 'attn.kv': (2 * dim, dim), 'attn.proj': (dim, dim)}
            linears |= {'mlp.fc1': (ratio * dim, dim), 'mlp.fc2': (dim, ratio * dim)}
            for name, shape in linears.items():
                add(f'{block}.{name}.weight', *shape)
                named.append((f'{block}.{name}', shape[0]))
            named += [(f'{block}.norm1', dim), (f'{block}.norm2', dim)]
            if reduction > 1:
                add(f'{block}.attn.sr.weight', dim, dim, reduction, reduction, scale=0.05)
                named += [(f'{block}.attn.sr', dim), (f'{block}.attn.norm', dim)]
        for name, size in named:
            add(f'{name}.bias', size)
            if 'norm' in name:
                add(f'{name}.weight', size)
    add('cls_token', 1, 1, 64)
    add('norm.weight', 64)
    add('norm.bias', 64)
    add('head.weight', 5, 64)
    return weights


def released_token(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Computes the released classifier's normalized class token, from the paper and the names."""

    def linear(name, x):
        return F.linear(x, w[f'{name}.weight'], w[f'{name}.bias'])

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'], eps)

    for s, (heads, reduction) in enumerate(zip(HEADS, REDUCTIONS), 1):
        x = F.conv2d(x, w[f'patch_embed{s}.proj.weight'], w[f'patch_embed{s}.proj.bias'], 4 if s == 1 else 2)
        size = x.shape[2:]
        x = norm(f'patch_embed{s}.norm', x.flatten(2).transpose(1, 2), 1e-5)
        if s == 4:
            x = torch.cat([w['cls_token'].expand(len(x), -1, -1), x], 1)
        x = x + w[f'pos_embed{s}']
        for b in range(NANO['num_layers'][s - 1]):
            block = f'block{s}.{b}'
            y = norm(f'{block}.norm1', x, 1e-6)
            keys = y
            if reduction > 1:
                keys = y.transpose(1, 2).unflatten(2, size)
                keys = F.conv2d(keys, w[f'{block}.attn.sr.weight'], w[f'{block}.attn.sr.bias'], reduction)
                keys = norm(f'{block}.attn.norm', keys.flatten(2).transpose(1, 2), 1e-5)
            q = linear(f'{block}.attn.q', y).unflatten(2, (heads, -1)).transpose(1, 2)
            k, v = linear(f'{block}.attn.kv', keys).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
            attended = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = x + linear(f'{block}.attn.proj', attended)
            y = norm(f'{block}.norm2', x, 1e-6)
            x = x + linear(f'{block}.mlp.fc2', F.gelu(linear(f'{block}.mlp.fc1', y)))
        if s < 4:
            x = x.transpose(1, 2).unflatten(2, size)
    return norm('norm', x, 1e-6)[:, 0]


@pytest.mark.parametrize('key', [None, 'model'])
def test_equals_the_released_classifier(key, tmp_path):
    weights = released_weights()
    path = tmp_path / 'pvt.pth'
    torch.save(weights if key is None else {key: weights}, path)
    model = PVTClassifier(**NANO, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        (ours,) = model.double().eval()(image)
    theirs = released_token({name: value.double() for name, value in weights.items()}, image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in model.state_dict().items()}}, path)
    again = PVTClassifier(**NANO, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    again.init_weights()
    assert torch.equal(again.double().eval()(image)[0], ours)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_layers=[1, 1, 2, 1]), 'the model has no layers.3.1.2.attn.attn.in_proj_bias'),
        (dict(num_layers=[1, 1, 2, 3]), r'layers.3.1.3.norm1.weight is missing in the file and \(64,\) in the model'),
        (dict(pretrain_img_size=96), r'layers.0.1.0.pos_embed is \(1, 256, 8\) in the file and \(1, 576, 8\)'),
    ],
)
def test_files_of_other_models_are_refused(change, message, tmp_path):
    torch.save(released_weights(), tmp_path / 'pvt.pth')
    model = PVTClassifier(**NANO | change, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'pvt.pth')))
    with pytest.raises(CheckpointError, match=message):
        model.init_weights()


def test_other_sizes_and_gradients():
    model = PVTClassifier(**NANO)
    model.init_weights()
    (token,) = model(torch.randn(2, 3, 96, 64))
    assert token.shape == (2, 64)
    token.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_starts_as_released():
    torch.manual_seed(0)
    model = PVTClassifier(embed_dims=32, num_layers=[1, 1, 1, 1])
    model.init_weights()
    block = model.layers[2][1][1]
    for weight in (block.attn.attn.in_proj_weight, block.ffn.layers[0].weight, block.ffn.layers[3].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    bound = block.attn.sr.weight[0].numel() ** -0.5  # of PyTorch's default
    assert block.attn.sr.weight.abs().max().item() == pytest.approx(bound, rel=0.05)


@pytest.mark.parametrize(
    'option', [dict(sr_ratios=[8, 4, 2, 2]), dict(use_conv_ffn=True), dict(use_abs_pos_embed=False)]
)
def test_pvt_v2_is_refused(option):
    with pytest.raises(ConfigError, match=r'PVTClassifier: needs sr_ratios\[3\]=1'):
        PVTClassifier(**NANO, **option)
