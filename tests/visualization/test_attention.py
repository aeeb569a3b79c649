"""Attention maps: weights and boxes alone reproduce the operator's output."""

import pytest
import torch

from mmfocal.errors import ConfigError
from mmfocal.models import FocalTransformer, VisionLongformer
from mmfocal.visualization.attention import attention_maps, visit_attention

CASES = [
    dict(border='wrap', focal_levels=1, use_shift=False),
    dict(border='wrap', focal_levels=2, use_shift=True),
    dict(border='mask', focal_levels=2, use_shift=False),
    dict(border='mask', focal_levels=3, use_shift=True),
    dict(border='wrap', focal_levels=3, use_shift=False, window_size=5),  # sub-windows of 2 tokens do not fill windows
    dict(border='mask', focal_levels=3, use_shift=True, window_size=5),
]


def make_backbone(focal_levels=2, window_size=4, **options):
    torch.manual_seed(0)
    backbone = FocalTransformer(
        arch=dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(2, 2, 2, 2)),
        window_size=window_size,
        expand_sizes=(1, 2, 2, 0),
        focal_levels=(focal_levels,) * 4,
        focal_windows=(3, 3, 3, 1),
        focal_pool='mean',
        drop_path_rate=0.0,
        **options,
    )
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # far from uniform attention
    return backbone.double().eval()


def block_io(backbone, images, stage, block):
    """The input and the output of a block's attention in a usual forward pass."""
    found = []
    attention = backbone.stages[stage].blocks[block].attn
    handle = attention.register_forward_hook(lambda module, inputs, output: found.append((inputs[0], output)))
    with torch.no_grad():
        backbone(images)
    handle.remove()
    return attention, *found[0]


@pytest.mark.parametrize('options', CASES, ids=str)
def test_weights_and_boxes_reproduce_the_output(options):
    backbone = make_backbone(**options)
    images = torch.randn(2, 3, 76, 68, dtype=torch.double)  # stage 1: maps of 10 × 9, padded to whole windows
    attention, x, output = block_io(backbone, images, 1, 1)
    maps = attention_maps(backbone, images, 1, 1)
    batch, heads, height, width, keys = maps.weights.shape
    assert (batch, heads, height, width, keys) == (2, 2, 10, 9, attention.layout.keys) and maps.stride == 8
    assert maps.weights.sum(-1).sub(1).abs().max() < 1e-12

    # values from the boxes: the mean of the tokens that a key covers, the padding's zeros included
    tall, wide = (side // 8 for side in maps.padded_size)
    padded = torch.zeros(2, tall, wide, 16, dtype=torch.double)
    padded[:, :height, :width] = x
    twice = padded.repeat(1, 2, 2, 1)  # a key may reach over the end
    boxes = maps.boxes / 8
    means = torch.zeros(*boxes.shape[:2], 2, 16, dtype=torch.double)
    outside = boxes.isnan().any(-1)
    for window, key in (~outside).nonzero():
        left, top, right, bottom = boxes[window, key].int().tolist()
        means[window, key] = twice[:, top:bottom, left:right].mean((1, 2))
    values = attention.qkv(means)[..., 32:].unflatten(-1, (2, 8))  # (n, keys, B, heads, head_dim)
    values[outside] = 0
    attended = torch.einsum('bhyxk,yxkbhc->byxhc', maps.weights, values[maps.window])
    expected = attention.proj(attended.flatten(3))
    assert (expected - output).abs().max() < 1e-12
    assert outside.any() == (options['border'] == 'mask' or options['focal_levels'] > 1)
    assert maps.weights.permute(2, 3, 4, 0, 1)[outside[maps.window]].max() < 1e-30 if outside.any() else True

    kinds = ['own window', 'ring', *(f'pooled {i}' for i in range(1, options['focal_levels']))]
    assert list(maps.kinds) == kinds
    own = boxes[maps.window][:, :, maps.kinds['own window']]  # (h, w, t, 4)
    if not options['use_shift']:
        y, x = torch.meshgrid(torch.arange(10), torch.arange(9), indexing='ij')
        assert ((own[..., 0] == x[..., None]) & (own[..., 1] == y[..., None])).sum(-1).eq(1).all()


@pytest.mark.parametrize('use_shift', [False, True], ids=['', 'shift'])
def test_sums_by_kind_and_distance(use_shift):
    backbone = make_backbone(border='mask', use_shift=use_shift)
    images = torch.randn(2, 3, 76, 68, dtype=torch.double)
    maps = attention_maps(backbone, images, 1, -1)
    mass = torch.stack(list(maps.mass().values()))
    assert mass.shape == (3, 2) and mass.sum(0).sub(1).abs().max() < 1e-12
    assert mass[1].allclose(maps.weights[..., 16:64].sum(-1).mean((0, 2, 3)))

    distances = torch.tensor([0.0, 8.0, 20.0, 1000.0])
    within = maps.mass_within(distances)
    expected = torch.zeros(2, 4, dtype=torch.double)
    for row in range(10):
        for column in range(9):
            boxes = maps.boxes[maps.window[row, column]]
            middle = torch.tensor([column * 8 + 4.0, row * 8 + 4.0])
            apart = (boxes.unflatten(-1, (2, 2)).mean(1) - middle).norm(dim=-1)
            for i, distance in enumerate(distances):
                expected[:, i] += maps.weights[:, :, row, column, apart <= distance].sum(-1).mean(0) / 90
    assert within.sub(expected).abs().max() < 1e-12 and within[:, -1].sub(1).abs().max() < 1e-12


def test_all_blocks_are_visited_in_order():
    backbone, seen = make_backbone(), []
    visit_attention(
        backbone, torch.randn(1, 3, 64, 64).double(), lambda maps, *place: seen.append((*place, maps.stride))
    )
    assert seen == [(0, 0, 4), (1, 0, 8), (1, 1, 8), (2, 0, 16), (3, 0, 32)]
    assert not any(block.attn._forward_pre_hooks for stage in backbone.stages for block in stage.blocks)


def test_tokens_at_points():
    maps = attention_maps(make_backbone(), torch.randn(1, 3, 76, 68).double(), 1, 0)
    points = {(0, 0): (0, 0), (67, 75): (9, 8), (8, 7.9): (0, 1), (-5, 400): (9, 0)}
    assert {point: maps.token_at(*point) for point in points} == points


def test_mistakes():
    images = torch.randn(1, 3, 64, 64).double()
    for stage, block, sentence in (
        (4, 0, 'stage 4: the backbone has stages 0 to 3'),
        (0, 1, 'block 1: stage 0 has blocks 0 to 0'),
        (3, 0, 'stage 3 does not run: out_indices=(1,)'),
    ):
        with pytest.raises(ConfigError) as error:
            attention_maps(make_backbone(out_indices=1), images, stage, block)
        assert sentence in str(error.value)
    with pytest.raises(ConfigError, match='VisionLongformer, which has no focal attention'):
        attention_maps(VisionLongformer(arch='tiny'), images, 0, 0)
