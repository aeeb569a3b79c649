"""The released classification code's numbers, forward and backward."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmfocal.models import FocalTransformer
from mmfocal.weights.released import convert_released

DATA = Path(__file__).parents[1] / 'data'
NAMES = (
    'classification_224',
    'conv_embed_256',
    'dense_256x320',
    'global_only_256',
    'local_only_256',
    'three_levels_256',
    'window_shift_224',
)


def build(config, **kwargs):
    """The golden model, from the released code's constructor arguments."""
    return FocalTransformer(
        arch=dict(embed_dims=config['embed_dim'], depths=config['depths'], num_heads=config['heads']),
        expand_sizes=config.get('expand_sizes', [3, 3, 3, 3]),
        focal_levels=config.get('focal_levels', [2, 2, 2, 2]),
        use_shift=config.get('use_shift', False),
        conv_embed=config.get('use_conv_embed', False),
        layer_scale=config.get('layerscale_value') if config.get('use_layerscale') else None,
        pre_norm=config.get('use_pre_norm', False),
        **kwargs,
    )


def relative_error(a, b):
    return (torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double())).item()


@pytest.mark.parametrize('dtype, limit', [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize('backend', ['reference', 'gather'])
@pytest.mark.parametrize('name', NAMES)
def test_golden(name, backend, dtype, limit):
    golden = {
        key: torch.from_numpy(value) if value.dtype.kind == 'f' else value
        for key, value in np.load(DATA / f'{name}.npz', allow_pickle=False).items()
    }
    model = build(json.loads(str(golden['config'])), attention_backend=backend).to(dtype).eval()

    # the released parameters are the leaves, so that gradients come back through the conversion
    leaves = {
        key[len('state_dict/') :]: value.to(dtype).requires_grad_()
        for key, value in golden.items()
        if key.startswith('state_dict/')
    }
    params, ignored = convert_released(leaves)
    assert {name.split('.')[0] for name in ignored if 'attn_mask' not in name} == {'head'}
    missing = {name for name in model.state_dict() if name not in params}
    assert all(
        name.startswith(('norm0', 'norm1', 'norm2')) or name == 'stages.3.blocks.0.attn.ring_bias_table'
        for name in missing
    )

    stages = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, out: stages.append(out[0].permute(0, 3, 1, 2)))
    image = golden['input'].to(dtype).requires_grad_()
    last = torch.func.functional_call(model, params, image)[-1]
    logits = F.linear(last.mean((2, 3)), leaves['head.weight'], leaves['head.bias'])

    for i, stage in enumerate(stages):
        assert relative_error(stage, golden[f'stage{i}']) <= limit, f'stage {i}'
    assert relative_error(logits, golden['logits']) <= limit

    (logits * torch.linspace(-1, 1, logits.numel(), dtype=dtype).view_as(logits)).sum().backward()
    assert relative_error(image.grad[:, :, 1::4, 2::4], golden['grad_input_stride4']) <= limit
    checked = 0
    for key, expected in golden.items():
        if key.startswith('grad/'):
            assert relative_error(leaves[key[len('grad/') :]].grad, expected) <= limit, key
            checked += 1
    assert checked >= 17
