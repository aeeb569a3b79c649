"""VisionLongformer: numbers of the released code, other sizes, bad arguments."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.models.vision_longformer import SlidingChunkAttention, VisionLongformer
from mmfocal.ops import sliding_chunks
from mmfocal.ops.sliding_chunks import NEIGHBORS, sliding_chunk_attention
from mmfocal.weights.vision_longformer import backbone_state_dict, load_vision_longformer_weights

DATA = Path(__file__).parents[1] / 'data/vil'
CLASSIFIERS = ('vil_cls_rpe_224', 'vil_cls_ape_96')
DETECTORS = ('vil_det_rpe_96x160', 'vil_det_ape_96x160')
CONVERTED = ('vil_cls_rpe_to_det_96x160', 'vil_cls_ape_to_det_96x160')


class Golden:
    """A file of numbers that the released code computed."""

    def __init__(self, name: str):
        with np.load(DATA / f'{name}.npz') as file:
            values = {key: torch.from_numpy(file[key]) for key in file if key != 'config'}
            self.config = json.loads(str(file['config']))
        self.values = {key: value.double() if value.is_floating_point() else value for key, value in values.items()}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.values[key]

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key[len(prefix) + 1 :]: value for key, value in self.values.items() if key.startswith(f'{prefix}/')}

    def model(self, **kwargs) -> VisionLongformer:
        """Builds the model that the released stage string describes, in float64."""
        stages = [{part[0]: int(part[1:]) for part in stage.split(',')} for stage in self.config['arch'].split('_')]
        return VisionLongformer(
            arch=dict(
                embed_dims=[stage['d'] for stage in stages],
                depths=[stage['n'] for stage in stages],
                num_heads=[stage['h'] for stage in stages],
            ),
            window_size=[stage['f'] for stage in stages],
            attention=['sparse' if stage['s'] else 'full' for stage in stages],
            positions='absolute' if stages[0]['a'] else 'relative',
            img_size=self.config['img_size'],
            num_global_tokens=[stage['g'] for stage in stages],
            **kwargs,
        ).double()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The golden numbers are float64 results stored as float32: 6e-8 of the largest magnitude is their rounding."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7 * max(1.0, theirs.abs().max().item()))


def stages_of(model: VisionLongformer, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Returns the maps of the stages, and their global tokens."""
    maps, tokens = [], []
    for stage in model.stages:
        global_tokens, x = stage(x)
        maps.append(x)
        tokens.append(global_tokens)
    return maps, tokens


def linear_loss(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum()


@pytest.mark.parametrize('name', CLASSIFIERS + DETECTORS + CONVERTED)
def test_stages_and_gradients_equal_the_released_codes(name, tmp_path):
    golden = Golden(name)
    source = Golden(golden.config['source'].removesuffix('.npz')) if 'source' in golden.config else golden
    model = golden.model(final_norm=name in CLASSIFIERS).eval()
    path = tmp_path / 'released.pth'
    torch.save(dict(net=source.group('state_dict')), path)
    load_vision_longformer_weights(model, str(path))

    x = golden['input'].requires_grad_()
    maps, tokens = stages_of(model, x)
    for i, ours in enumerate(maps):
        close(ours, golden[f'stage{i}'])
        if tokens[i].shape[1]:
            close(tokens[i], golden[f'global{i}'])
    if golden.config['loss'] == 'logits':
        head = golden.group('state_dict')
        logits = model(x)[-1].mean((2, 3)) @ head['head.weight'].t() + head['head.bias']
        close(logits, golden['logits'])
        linear_loss(logits).backward()
    else:
        sum(map(linear_loss, maps)).backward()
    close(x.grad[:, :, 1::4, 2::4], golden['grad_input_stride4'])
    expected = renamed(golden.group('grad'))
    assert len(expected) >= 10
    for key, weight in model.named_parameters():
        if key in expected:
            is_known = ~expected[key].isnan()
            close(weight.grad[is_known], expected[key][is_known])


def renamed(released: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns gradients under our names, NaN where only a part of a joined projection is known."""
    whole = dict(released, **{'layer1.0.proj.weight': released['layer1.0.proj.weight'], 'x.attn.x': torch.zeros(1)})
    for name, value in released.items():
        if '.query.' in name:
            whole.setdefault(name.replace('.query.', '.kv.'), torch.full_like(torch.cat([value, value]), torch.nan))
        elif '.kv.' in name:
            whole.setdefault(name.replace('.kv.', '.query.'), torch.full_like(value[: len(value) // 2], torch.nan))
    return backbone_state_dict(whole, 'gradients')[0]


@pytest.mark.parametrize('pattern, suffix', [('chunk', 'exact0'), ('exact', 'exact1'), ('cyclic', 'exact-1')])
def test_attention_patterns_equal_the_released_layer(pattern, suffix, monkeypatch):
    golden = Golden('vil_attention_layer')
    layer = SlidingChunkAttention(
        golden.config['dim'],
        golden.config['w'],
        pattern=pattern,
        neighbors='all',
        share_global=False,
        num_heads=golden.config['num_heads'],
        num_global=golden.config['nglo'],
        relative=True,
        qkv_bias=True,
        drop=0.0,
        attn_drop=0.0,
    ).double()
    released = {f'layer1.1.attn.{name}': value for name, value in golden.group('state_dict').items()}
    weights, _ = backbone_state_dict({**released, 'layer1.0.proj.weight': torch.zeros(1)}, 'layer', layer.state_dict())
    prefix = 'stages.0.blocks.0.attn.'
    layer.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if prefix in name})
    size = golden.config['nx'], golden.config['ny']
    close(layer.eval()(golden['input'], *size), golden[suffix])
    if pattern == 'exact':
        return
    layer.neighbors = 'none'
    close(layer(golden['input'], *size), golden[f'{suffix}_own'])
    layer.neighbors = 'random'
    close(layer(golden['input'], *size), golden[suffix])  # in evaluation
    layer.train()
    for k, neighbor in enumerate(NEIGHBORS, 1):
        monkeypatch.setattr('mmfocal.models.vision_longformer.random.choice', lambda _, neighbor=neighbor: neighbor)
        close(layer(golden['input'], *size), golden[f'{suffix}_shift{k}'])


@pytest.mark.parametrize('budget', [1, 2**30])
@pytest.mark.parametrize('size', [(3, 4), (14, 14), (17, 30)])
def test_sliding_chunks_equal_dense_masked_attention(size, budget, monkeypatch):
    monkeypatch.setitem(sliding_chunks._GATHERED_BYTES, 'cpu', budget)
    torch.manual_seed(0)
    ws, (height, width) = 7, size
    q, k, v = (torch.randn(2, height, width, 2, 8, dtype=torch.double, requires_grad=True) for _ in range(3))
    gk, gv = (torch.randn(2, 1, 2, 8, dtype=torch.double, requires_grad=True) for _ in range(2))
    out = sliding_chunk_attention(q, k, v, gk, gv, chunk_size=ws)

    row, col = (x.flatten() // ws for x in torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij'))
    near = ((row[:, None] - row).abs() <= 1) & ((col[:, None] - col).abs() <= 1)
    mask = torch.cat([torch.ones(height * width, 1, dtype=torch.bool), near], 1)
    keys, values = (torch.cat([x, y.flatten(1, 2)], 1).transpose(1, 2) for x, y in ((gk, k), (gv, v)))
    dense = torch.nn.functional.scaled_dot_product_attention(q.flatten(1, 2).transpose(1, 2), keys, values, mask)
    torch.testing.assert_close(out.flatten(1, 2), dense.transpose(1, 2))
    inputs = (q, k, v, gk, gv)
    for ours, theirs in zip(
        torch.autograd.grad(linear_loss(out), inputs),
        torch.autograd.grad(linear_loss(dense.transpose(1, 2).reshape(out.shape)), inputs),
    ):
        torch.testing.assert_close(ours, theirs)


def test_backward_keeps_no_gathered_copies():
    q, k, v = (torch.randn(1, 56, 56, 2, 16, requires_grad=True) for _ in range(3))
    empty = torch.zeros(1, 0, 2, 16)
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        sliding_chunk_attention(q, k, v, empty, empty, chunk_size=7)
    assert 0 < sum(kept.values()) < 6 * q.numel() * q.element_size()  # q, and k and v with a border; nine-fold: 18


def tiny(**kwargs) -> dict:
    arch = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2))
    return dict(type='VisionLongformer', arch=arch, window_size=3, img_size=96, **kwargs)


@pytest.mark.parametrize('positions', ['absolute', 'relative'])
@pytest.mark.parametrize('size', [(32, 32), (96, 160), (130, 70)])
def test_any_size_trains(positions, size):
    model = MODELS.build(tiny(positions=positions, neighbors='random', drop_path_rate=0.2, with_cp=True)).train()
    outs = model(torch.randn(2, 3, *size))
    assert [tuple(out.shape[2:]) for out in outs] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]
    sum(map(linear_loss, outs)).backward()
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    assert all(grad is None or grad.isfinite().all() for grad in grads.values())
    missing = {name for name, grad in grads.items() if grad is None}
    assert missing <= {name for name in grads if '.global_bias' in name}  # the last blocks' global queries reach no map


def test_maps_beyond_the_tables_interpolate_positions():
    model = MODELS.build(tiny()).eval()
    embed = model.stages[0].embed
    with torch.no_grad():
        embed.proj.weight.zero_()
        embed.norm = torch.nn.Identity()
        embed.row_positions.copy_(torch.arange(24.0)[None, :, None].expand_as(embed.row_positions))
        embed.col_positions.zero_()
        tokens, height, width = embed(torch.zeros(1, 3, 192, 64))
    rows = (tokens[0, 1:] - embed.proj.bias).view(height, width, -1)[:, 0, 0]
    expected = ((torch.arange(48.0) + 0.5) / 2 - 0.5).clamp(0, 23)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'arch, millions', [('small', (24.64, 23.97)), ('medium', (39.72, 39.06)), ('base', (55.70, 55.03))]
)
def test_parameters_are_the_published_ones(arch, millions):
    """Classifiers at 224 pixels with heads; detectors' backbones with tables for 1344 pixels and the final norm."""
    attention = ('sparse', 'sparse', 'full', 'full')
    with torch.device('meta'):
        classifier = VisionLongformer(arch=arch, attention=attention, img_size=224, final_norm=True)
        detector = VisionLongformer(arch=arch, img_size=1333, final_norm=True)
    head = 768 * 1000 + 1000
    counts = (sum(x.numel() for x in m.parameters()) for m in (classifier, detector))
    assert [round(count / 1e6, 2) for count in (next(counts) + head, next(counts))] == list(millions)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(arch='huge'), "arch must be one of 'tiny', 'small', 'medium', 'base'"),
        (dict(positions='rotary'), "positions must be one of 'absolute', 'relative'"),
        (dict(attention=('sparse', 'full')), 'attention must have 4 entries, one per stage'),
        (dict(window_size=(7, 7, 7, 0)), r'window_size\[3\] is not valid, got 0'),
        (dict(pattern='exact', neighbors='random'), "pattern='exact' needs neighbors='all'"),
        (dict(out_indices=(1, 0)), 'out_indices must list stages from 0 to 3'),
        (
            dict(arch=dict(embed_dims=(8, 8, 8, 9), depths=(1,) * 4, num_heads=(2,) * 4)),
            'does not divide the 9 channels',
        ),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ConfigError, match=message):
        VisionLongformer(**change)


def test_full_attention_with_relative_positions_refuses_other_sizes():
    model = MODELS.build(tiny(attention=('sparse', 'sparse', 'full', 'full'), positions='relative'))
    model(torch.zeros(1, 3, 96, 96))
    with pytest.raises(
        ValueError,
        match="needs a map of 6 × 6 tokens, as img_size says, got 8 × 6; use attention='sparse'",
    ):
        model(torch.zeros(1, 3, 128, 96))


@pytest.mark.parametrize(
    'content, message',
    [
        (dict(model={}), 'holds no Vision Longformer'),
        ([1], 'holds no state dict'),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=message):
        load_vision_longformer_weights(MODELS.build(tiny()), str(tmp_path / 'other.pth'))


def test_our_own_checkpoints_load_also_from_a_detector(tmp_path):
    first, second = MODELS.build(tiny()), MODELS.build(tiny())
    torch.save(dict(state_dict={f'backbone.{name}': x for name, x in first.state_dict().items()}), tmp_path / 'own.pth')
    second.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'own.pth'))
    second.init_weights()
    assert all(x.equal(second.state_dict()[name]) for name, x in first.state_dict().items())
    third = MODELS.build(tiny() | dict(window_size=4, positions='relative'))
    with pytest.raises(CheckpointError, match='does not fit this VisionLongformer: it lacks'):
        load_vision_longformer_weights(third, str(tmp_path / 'own.pth'))
