"""Our operators against what MMCV 2.1.0's compiled ones computed, which dev/record_mmcv_ops.py recorded."""

import json
from pathlib import Path

import mmcv.ops
import numpy as np
import pytest
import torch

FILE = Path(__file__).parents[2] / 'data' / 'mmcv_ops.npz'
ARRAYS = dict(np.load(FILE))
CASES = json.loads(str(ARRAYS['cases']))
FLOAT64 = [name for name in CASES if f'{name}/out0_float64' in ARRAYS]
DEFAULTS = {
    'roi_align': dict(output_size=1, spatial_scale=1.0, sampling_ratio=0, pool_mode='avg', aligned=True),
    'deform_conv2d': dict(stride=1, padding=0, dilation=1, groups=1, deform_groups=1),
    'modulated_deform_conv2d': dict(bias=None, stride=1, padding=0, dilation=1, groups=1, deform_groups=1),
    'psa_mask': {},
}


def run(name, dtype=torch.float32):
    """Returns a case's outputs and gradients, by the names of the file."""
    operator, settings = CASES[name]['operator'], CASES[name]['settings']
    arguments = []
    for value in CASES[name]['arguments']:
        if isinstance(value, str):
            value = torch.from_numpy(ARRAYS[value])
            value = value.to(dtype).requires_grad_(operator in DEFAULTS) if value.is_floating_point() else value
        arguments.append(value)
    if operator not in DEFAULTS:
        result = getattr(mmcv.ops, operator)(*arguments, **settings)
    else:
        function = mmcv.ops.psa_mask.psa_mask if operator == 'psa_mask' else getattr(mmcv.ops, operator)
        given = dict(DEFAULTS[operator])
        if len(arguments) == 5:
            del given['bias']
        result = function(*arguments, *(settings.get(key, default) for key, default in given.items()))
    if operator == 'nms_match':
        sizes, members = [len(group) for group in result], [int(index) for group in result for index in group]
        return {'out0': torch.tensor(sizes, dtype=torch.long), 'out1': torch.tensor(members, dtype=torch.long)}
    outputs = result if isinstance(result, tuple) else (result,)
    found = {f'out{index}': output.detach() for index, output in enumerate(outputs)}
    if outputs[0].requires_grad:
        weights = torch.arange(outputs[0].numel(), dtype=torch.float64).cos().view_as(outputs[0])
        (outputs[0] * weights.to(dtype)).sum().backward()
        for index, tensor in enumerate(arguments):
            if isinstance(tensor, torch.Tensor) and tensor.grad is not None:
                found[f'grad{index}'] = tensor.grad
    return found


def check(name, dtype, tolerance):
    suffix = '_float64' if dtype == torch.float64 else ''
    expected = {
        key.partition('/')[2].removesuffix(suffix): value
        for key, value in ARRAYS.items()
        if key.startswith(f'{name}/') and key.endswith('_float64') == bool(suffix)
    }
    found = run(name, dtype)
    assert expected and set(expected) <= set(found)
    for result, value in expected.items():
        torch.testing.assert_close(
            found[result],
            torch.from_numpy(value),
            rtol=tolerance,
            atol=tolerance * max(1.0, float(np.abs(value[np.isfinite(value)]).max(initial=0))),
            msg=lambda message, result=result: f'{name} {result}: {message}',
        )


@pytest.mark.parametrize('name', CASES)
def test_float32(our_operators, name):
    check(name, torch.float32, 1e-5)


@pytest.mark.parametrize('name', FLOAT64)
def test_float64(our_operators, name):
    check(name, torch.float64, 1e-12)


@pytest.mark.parametrize('name', CASES)
def test_installed_operators(name):
    """Compiled ones reproduce the file; with mmcv-lite these are ours."""
    check(name, torch.float32, 1e-5)


def test_the_file_covers_operators_and_edge_cases():
    assert {case['operator'] for case in CASES.values()} >= {
        'nms',
        'batched_nms',
        'soft_nms',
        'nms_match',
        'bbox_overlaps',
        'roi_align',
        'deform_conv2d',
        'modulated_deform_conv2d',
    }
    assert len(FLOAT64) >= 7 and FILE.stat().st_size < 300 * 1024
