"""The plain formulation computes what the operator and the backbone compute."""

import copy

import pytest
import torch

from mmfocal.benchmark.speed.roll_unfold import (
    neighbor_columns,
    neighbor_table,
    roll_unfold_attention,
    roll_unfold_backbone,
    use_roll_unfold,
)
from mmfocal.models import FocalTransformer
from mmfocal.ops import Layout, focal_attention
from mmfocal.weights.released import merge_neighbors

NANO = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(border='mask'),
        dict(expand_sizes=(3, 3, 3, 0), focal_levels=(2, 3, 1, 2), focal_pool='mean'),
        dict(window_size=4, expand_sizes=(2, 1, 0, 2), focal_levels=(2, 3, 2, 3), border='mask'),
    ],
    ids=str,
)
def test_same_backbone(options):
    """Outputs and gradients; the maps are padded, and at the last stages a single window high."""
    torch.manual_seed(0)
    ours = FocalTransformer(arch=NANO, drop_path_rate=0.0, attention_backend='reference', **options).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    plain = use_roll_unfold(copy.deepcopy(ours))
    x = torch.randn(2, 3, 100, 190, dtype=torch.float64)
    gradients = []
    for a, b in zip(ours(x), plain(x)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for model in (ours, plain):
        shared = 'qkv.weight', 'proj.weight', 'window_bias_table'
        weights = [parameter for name, parameter in model.named_parameters() if name.endswith(shared)]
        gradients.append(torch.autograd.grad(sum(out.sin().sum() for out in model(x)), weights))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('border', ['wrap', 'mask'])
@pytest.mark.parametrize('rows, cols', [(2, 3), (1, 2), (1, 1)])
def test_same_operator(border, rows, cols):
    torch.manual_seed(0)
    layout = Layout(7, 3, 5, 2, border)
    q, k, v = torch.randn(3, 2, 7 * rows, 7 * cols, 2, 4, dtype=torch.float64)
    pooled = [
        torch.randn(2, 2, *layout.pooled_size(7 * rows, 7 * cols, level), 2, 4, dtype=torch.float64)
        for level in range(2)
    ]
    bias = torch.randn(2, layout.tokens, layout.keys, dtype=torch.float64)
    own, ring, *regions = bias.split([layout.tokens, layout.ring, layout.region(0) ** 2, layout.region(1) ** 2], -1)
    biases = [own, neighbor_table(ring, layout), *regions]
    actual = roll_unfold_attention(q, k, v, pooled, biases, layout, neighbor_columns(layout)[0])
    expected = focal_attention(q, k, v, pooled, bias, layout, backend='reference')
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('window_size, expand_size, columns', [(7, 3, 132), (7, 1, 52), (4, 2, 48)])
def test_the_table_is_the_released_one(window_size, expand_size, columns):
    """132 columns, and merged as a released checkpoint's they are the ring again."""
    layout = Layout(window_size, expand_size)
    ring = torch.randn(2, layout.tokens, layout.ring, dtype=torch.float64)
    table = neighbor_table(ring, layout)
    assert table.shape == (2, layout.tokens, columns)
    torch.testing.assert_close(merge_neighbors(table[None]), ring)


def test_what_it_cannot_do():
    with pytest.raises(ValueError, match='no window shift'):
        roll_unfold_backbone(arch=NANO, use_shift=True)
    with pytest.raises(ValueError, match='do not cover a ring of 4 tokens around a window of 7'):
        roll_unfold_backbone(arch=NANO, expand_sizes=(4, 3, 3, 3))
