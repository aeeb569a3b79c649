import pytest
import torch
from mmengine.analysis import get_model_complexity_info

import mmfocal.registration  # noqa: F401
from mmfocal.backbones import FocalTransformer

ARCH = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))


def by_hand(arch, expand, windows, levels, side):
    """Multiply-adds of the attention's two products: tokens · channels · keys · 2."""
    total = 0
    for i in range(4):
        tokens = (-(-side // (4 * 2**i)) // 7 * 7)**2  # the map is a whole number of windows
        keys = (7 + 2 * expand)**2 + sum((windows[i] + 2**k - 1)**2 for k in range(levels - 1))
        total += arch['depths'][i] * tokens * arch['embed_dims'] * 2**i * keys * 2
    return total


@pytest.mark.parametrize('expand, levels', [(3, 2), (0, 1), (2, 3)])
def test_mmengine_counts_the_attention(expand, levels):
    model = FocalTransformer(arch=ARCH, expand_sizes=(expand, ) * 4, focal_levels=(levels, ) * 4).eval()
    info = get_model_complexity_info(model, (3, 224, 224), show_table=False, show_arch=False)
    reference = FocalTransformer(arch=ARCH, expand_sizes=(expand, ) * 4, focal_levels=(levels, ) * 4, attention_backend='reference').eval()
    slow = get_model_complexity_info(reference, (3, 224, 224), show_table=False, show_arch=False)
    assert info['flops'] == pytest.approx(slow['flops'], rel=1e-4)  # whose einsums MMEngine counts by itself, to four digits
    assert info['flops'] > by_hand(ARCH, expand, (7, 5, 3, 1), levels, 224)


def test_torch_counts_forward_and_backward():
    from torch.utils.flop_counter import FlopCounterMode
    model = FocalTransformer(arch=ARCH, drop_path_rate=0.)
    with FlopCounterMode(display=False) as forward:
        outs = model(torch.zeros(1, 3, 224, 224))
    attention = torch.ops.mmfocal.focal_attention
    expected = 2 * by_hand(ARCH, 3, (7, 5, 3, 1), 2, 224)
    assert forward.get_flop_counts()['Global'][attention] == expected
    with FlopCounterMode(display=False) as backward:
        sum(out.sum() for out in outs).backward()
    assert backward.get_flop_counts()['Global'][torch.ops.mmfocal.focal_attention_backward] == expected * 5 // 2
