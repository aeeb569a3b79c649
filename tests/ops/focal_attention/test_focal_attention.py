import dataclasses
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from mmfocal.ops import focal_attention
from mmfocal.ops.focal_attention import Layout
from mmfocal.ops.focal_attention.geometry import get_geometry, own_tokens_first, window_partition, window_reverse

BACKENDS = ('reference', 'gather')


def inputs(layout, batch=1, rows=2, cols=3, heads=2, head_dim=4, dtype=torch.float64, requires_grad=False):
    torch.manual_seed(0)
    height, width = rows * layout.window_size, cols * layout.window_size

    def make(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=requires_grad)

    q, k, v = (make(batch, height, width, heads, head_dim) for _ in range(3))
    pooled = [
        tuple(make(batch, *layout.pooled_size(height, width, level), heads, head_dim) for _ in range(2))
        for level in range(layout.pooled_levels)
    ]
    return q, k, v, pooled, make(heads, layout.tokens, layout.keys)


def call(layout, q, k, v, pooled, bias, backend, **kwargs):
    return focal_attention(q, k, v, pooled, bias, layout, backend=backend, **kwargs)


def by_hand(layout, q, k, v, pooled, bias):
    """The specification token by token, sharing no code with the operator: one image, one head."""
    ws, e, height, width = layout.window_size, layout.expand_size, *q.shape[1:3]
    out = torch.zeros_like(q)

    def part(position, count):  # Swin's regions of a rolled map
        return 0 if position < count - ws else 1 if position < count - ws // 2 else 2

    for y in range(height):
        for x in range(width):
            top, left = y // ws * ws, x // ws * ws
            own, ring = [], []
            for row in range(top - e, top + ws + e):
                for col in range(left - e, left + ws + e):
                    inside = top <= row < top + ws and left <= col < left + ws
                    seen = 0.0
                    if not inside and layout.border == 'mask' and not (0 <= row < height and 0 <= col < width):
                        seen = -math.inf
                    if height == ws and not top <= row < top + ws or width == ws and not left <= col < left + ws:
                        seen = -math.inf
                    if (
                        inside
                        and layout.shifted
                        and (part(row, height), part(col, width)) != (part(y, height), part(x, width))
                    ):
                        seen = -100.0
                    r, c = row % height, col % width
                    (own if inside else ring).append((k[0, r, c, 0], v[0, r, c, 0], seen))
            keys = own + ring
            for level, (pk, pv) in enumerate(pooled):
                start = -(layout.focal_window // 2)
                for i in range(start, -start + 2**level):
                    for j in range(start, -start + 2**level):
                        r, c = top // ws * 2**level + i, left // ws * 2**level + j
                        if 0 <= r < pk.shape[1] and 0 <= c < pk.shape[2]:
                            keys.append((pk[0, r, c, 0], pv[0, r, c, 0], 0.0))
                        else:
                            keys.append((torch.zeros_like(pk[0, 0, 0, 0]), torch.zeros_like(pv[0, 0, 0, 0]), -100.0))
            query = (y - top) * ws + x - left
            logits = (
                torch.stack([q[0, y, x, 0] @ key / q.shape[-1] ** 0.5 + seen for key, _, seen in keys]) + bias[0, query]
            )
            out[0, y, x, 0] = logits.softmax(0) @ torch.stack([value for _, value, _ in keys])
    return out


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    'layout',
    [
        Layout(3, 1, 3, 1, 'wrap'),
        Layout(3, 1, 3, 1, 'mask'),
        Layout(4, 2, 1, 3, 'mask'),
        Layout(4, 4, 3, 2, 'wrap', True),
        Layout(2, 0, 5, 2, 'wrap'),
        Layout(3, 2, 1, 0, 'mask', True),
    ],
    ids=str,
)
@pytest.mark.parametrize('rows, cols', [(2, 3), (1, 2), (1, 1)])
def test_definition(layout, rows, cols, backend):
    if layout.shifted and min(rows, cols) == 1:
        layout = dataclasses.replace(layout, shifted=False)
    args = inputs(layout, rows=rows, cols=cols, heads=1)
    torch.testing.assert_close(call(layout, *args, backend), by_hand(layout, *args))


@pytest.mark.parametrize('border', ['wrap', 'mask'])
def test_gradients(border):
    """The definition's gradients by finite differences, and both backends' by comparison."""
    layout = Layout(2, 1, 3, 2, border, shifted=True)
    q, k, v, pooled, bias = inputs(layout, rows=2, cols=2, heads=1, head_dim=2, requires_grad=True)
    flat = (q, k, v, *(tensor for pair in pooled for tensor in pair), bias)

    def attend(backend, q, k, v, *rest):
        pairs = list(zip(rest[:-1:2], rest[1:-1:2]))
        return call(layout, q, k, v, pairs, rest[-1], backend)

    assert torch.autograd.gradcheck(lambda *args: attend('reference', *args), flat, fast_mode=True)
    expected, actual = (torch.autograd.grad(attend(backend, *flat).sin().sum(), flat) for backend in BACKENDS)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('backend', BACKENDS)
def test_without_bias_and_pooled_levels_it_is_plain_windows(backend):
    layout = Layout(7, 0, 1, 0)
    q, k, v, pooled, bias = inputs(layout, batch=2)
    windows = [window_partition(x, 7).transpose(2, 3) for x in (q, k, v)]
    expected = window_reverse(F.scaled_dot_product_attention(*windows).transpose(2, 3), 7, *q.shape[1:3])
    torch.testing.assert_close(call(layout, q, k, v, pooled, None, backend), expected)


def test_dropout_drops():
    layout = Layout(3, 1, 3, 1)
    args = inputs(layout)
    whole = call(layout, *args, 'auto')
    torch.manual_seed(1)
    dropped = torch.stack([call(layout, *args, 'auto', dropout_p=0.3) for _ in range(300)])
    assert not torch.equal(dropped[0], dropped[1])
    assert (dropped.mean(0) - whole).abs().max() < 0.35  # its mean is the attention without dropout


def test_window_partition_and_reverse():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    windows = window_partition(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert torch.equal(windows[0, 1, :, 0], x[0, [0, 0, 1, 1], [2, 3, 2, 3], 0])
    assert torch.equal(window_reverse(windows, 2, 4, 6), x)


def test_geometry_is_computed_once_per_shape():
    layout, x = Layout(5, 2, 3, 1), torch.zeros(1)
    assert get_geometry(layout, 10, 15, x) is get_geometry(layout, 10, 15, x)
    assert get_geometry(layout, 10, 15, x) is not get_geometry(layout, 15, 10, x)


@pytest.mark.parametrize(
    'change, error, sentence',
    [
        (dict(q=torch.zeros(1, 6, 6, 1, 4, dtype=torch.int)), TypeError, 'floating-point dtype'),
        (dict(k=torch.zeros(1, 6, 6, 1, 4, dtype=torch.half)), TypeError, 'share one floating-point dtype'),
        (dict(v=torch.zeros(1, 6, 6, 1, 5)), ValueError, r'share one shape \(B, H, W, heads, head_dim\)'),
        (dict(layout=Layout(4, 1, 3)), ValueError, 'multiples of window_size=4'),
        (
            dict(backend='cuda'),
            ValueError,
            "backend must be 'auto' or one of 'reference', 'gather', 'triton', got 'cuda'",
        ),
        (
            dict(pooled_kv=[(torch.zeros(1, 2, 3, 1, 4),) * 2]),
            ValueError,
            r'pooled_kv\[0\]: k must be \(1, 2, 2, 1, 4\)',
        ),
        (dict(pooled_kv=[]), ValueError, 'layout has pooled_levels=1, pooled_kv has 0; give one pair per level'),
        (dict(layout=Layout(3, 1, 3, 0)), ValueError, 'layout has pooled_levels=0, pooled_kv has 1'),
        (dict(bias=torch.zeros(1, 9, 9)), ValueError, r'bias must be \(heads, window_size², keys\) = \(1, 9, 34\)'),
    ],
)
def test_bad_arguments(change, error, sentence):
    maps = {name: torch.zeros(1, 6, 6, 1, 4) for name in 'qkv'}
    good = dict(**maps, pooled_kv=[(torch.zeros(1, 2, 2, 1, 4),) * 2], bias=None, layout=Layout(3, 1, 3))
    focal_attention(**good)
    with pytest.raises(error, match=sentence) as info:
        focal_attention(**{**good, **change})
    assert '\n' not in str(info.value)


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(window_size=0), 'window_size must be an integer of at least 1, got 0'),
        (dict(window_size=7.0), 'window_size must be an integer of at least 1, got 7.0'),
        (dict(window_size=3, expand_size=4), 'expand_size must not exceed window_size=3'),
        (dict(expand_size=-1), 'expand_size must be an integer of at least 0'),
        (dict(focal_window=2), 'focal_window must be odd'),
        (dict(pooled_levels=True), 'pooled_levels must be an integer of at least 0, got True'),
        (dict(window_size=2, expand_size=1, pooled_levels=3), 'window_size=2 is too small for 3 pooled levels'),
        (dict(border='zero'), "border must be 'wrap' or 'mask'"),
    ],
)
def test_a_layout_validates_itself(options, sentence):
    with pytest.raises(ValueError, match=sentence) as info:
        Layout(**options)
    assert '\n' not in str(info.value)


def test_the_operator_needs_torch_alone():
    blocked = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'triton')
    code = f'import sys; sys.modules.update(dict.fromkeys({blocked})); import mmfocal.ops'
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('window_size, expand_size', [(1, 0), (1, 1), (4, 0), (7, 3), (5, 5)])
def test_own_tokens_come_first_each_part_row_major(window_size, expand_size):
    side = window_size + 2 * expand_size
    own = torch.zeros(side, side, dtype=torch.bool)
    own[expand_size : expand_size + window_size, expand_size : expand_size + window_size] = True
    expected = torch.cat([own.flatten().nonzero()[:, 0], (~own).flatten().nonzero()[:, 0]])
    order = own_tokens_first(Layout(window_size=window_size, expand_size=expand_size), torch.device('cpu'))
    assert torch.equal(order, expected)
