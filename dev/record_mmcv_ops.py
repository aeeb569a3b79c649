"""Records what MMCV's compiled operators compute on the CPU: tests/data/mmcv_ops.npz, with which tests compare ours.

It needs MMCV 2.1.0 with its operators. Each case of the file has the operator's name and settings, its tensors, its
output and, for floating-point outputs, the gradients of `sum(output * cos(0, 1, 2, …))`.
"""

import json
import zlib
from pathlib import Path

import mmcv.ops
import numpy as np
import torch

FILE = Path(__file__).resolve().parents[1] / 'tests' / 'data' / 'mmcv_ops.npz'
IN_FLOAT64 = (
    'roi_align_avg_True_2',
    'roi_align_max_False_0',
    'deform_conv_both_groups',
    'deform_conv_zeros',
    'modulated_stride',
    'modulated_oversized',
    'bbox_overlaps_iou_False',
)
RNG = np.random.default_rng(0)


def boxes(count: int, extent: float, images: int = 0) -> np.ndarray:
    """Random boxes (count, 4), or RoIs (count, 5) on a number of images, with coordinates of eighths of pixels."""
    corner = RNG.uniform(-0.1 * extent, 0.9 * extent, (count, 2))
    found = np.concatenate([corner, corner + RNG.uniform(0.02, 0.6, (count, 2)) * extent], 1).round(1)
    found = np.round(found * 8) / 8
    return np.concatenate([RNG.integers(images, size=(count, 1)), found], 1) if images else found


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).round(2)


def nms_cases():
    # No equal scores: compiled operators order them as the processor's sort does. Soft NMS does not sort.
    many, scores, ties = boxes(60, 60), RNG.permutation(60) / 60, RNG.random(60).round(1)
    for threshold in (0.3, 0.6):
        for offset in (0, 1):
            yield f'nms_{threshold}_{offset}', 'nms', [many, scores], dict(iou_threshold=threshold, offset=offset)
    yield 'nms_no_box', 'nms', [many[:0], scores[:0]], dict(iou_threshold=0.5)
    yield 'nms_one_box', 'nms', [many[:1], scores[:1]], dict(iou_threshold=0.5)
    settings = dict(iou_threshold=0.5, score_threshold=0.3, max_num=7)
    yield 'nms_of_high_scores', 'nms', [many, scores], settings
    # Boxes in a row, each overlapping the next: a long chain of decisions. IoUs are 0.6 exactly.
    chain = np.arange(900)[:, None] * [1.0, 0, 1, 0] + [0, 0, 4, 4]
    yield 'nms_chain', 'nms', [chain, np.linspace(1, 0, 900)], dict(iou_threshold=0.6)
    yield 'nms_chain_0.59', 'nms', [chain, np.linspace(1, 0, 900)], dict(iou_threshold=0.59)
    yield 'nms_many', 'nms', [boxes(1300, 300), RNG.permutation(1300) / 1300], dict(iou_threshold=0.5)
    labels = RNG.integers(3, size=60)
    for agnostic in (False, True):
        settings = dict(nms_cfg=dict(type='nms', iou_threshold=0.4), class_agnostic=agnostic)
        yield f'batched_nms_{agnostic}', 'batched_nms', [many, scores, labels], settings
    for method in ('naive', 'linear', 'gaussian'):
        for offset in (0, 1):
            settings = dict(iou_threshold=0.3, sigma=0.5, min_score=0.1, method=method, offset=offset)
            yield f'soft_nms_{method}_{offset}', 'soft_nms', [many, ties], settings
    yield 'soft_nms_no_box', 'soft_nms', [many[:0], scores[:0]], {}
    yield 'soft_nms_one_box', 'soft_nms', [many[:1], scores[:1]], {}
    yield 'nms_match', 'nms_match', [np.concatenate([many, scores[:, None]], 1)], dict(iou_threshold=0.4)
    yield 'nms_match_no_box', 'nms_match', [np.zeros((0, 5))], dict(iou_threshold=0.4)
    for mode in ('iou', 'iof'):
        for aligned in (False, True):
            settings = dict(mode=mode, aligned=aligned, offset=1)
            yield f'bbox_overlaps_{mode}_{aligned}', 'bbox_overlaps', [boxes(9, 20), boxes(9, 20)], settings


def roi_cases():
    maps, rois = normal(2, 3, 11, 14), boxes(6, 60, images=2)
    rois[0] = [1, 8, 8, 8, 8]  # without area
    rois[1] = [0, -30, -30, 90, 90]  # larger than the image
    rois[2] = [1, 100, 100, 120, 130]  # outside
    for mode in ('avg', 'max'):
        for aligned in (False, True):
            for ratio in (0, 2):
                settings = dict(output_size=[3, 4], spatial_scale=0.25, sampling_ratio=ratio, pool_mode=mode)
                name = f'roi_align_{mode}_{aligned}_{ratio}'
                yield name, 'roi_align', [maps, rois], settings | dict(aligned=aligned)
        settings = dict(output_size=2, spatial_scale=0.5, pool_mode=mode)
        yield f'roi_align_{mode}_no_roi', 'roi_align', [maps, rois[:0]], settings
        yield f'roi_align_{mode}_one_roi', 'roi_align', [maps, rois[5:]], settings


def deform_cases():
    maps = normal(2, 4, 4, 5)
    variants = {
        'plain': dict(padding=1),
        'stride': dict(stride=2, padding=[1, 0]),
        'dilation': dict(padding=2, dilation=2),
        'groups': dict(padding=1, groups=2),
        'deform_groups': dict(padding=1, deform_groups=2),
        'both_groups': dict(padding=1, groups=4, deform_groups=2),
    }
    for name, settings in variants.items():
        pairs = [
            np.broadcast_to(settings.get(key, default), 2)
            for key, default in (('stride', 1), ('padding', 0), ('dilation', 1))
        ]
        kernel = (3, 2) if name == 'plain' else (3, 3)
        out = [
            (size + 2 * pairs[1][axis] - pairs[2][axis] * (kernel[axis] - 1) - 1) // pairs[0][axis] + 1
            for axis, size in enumerate(maps.shape[2:])
        ]
        taps = kernel[0] * kernel[1] * settings.get('deform_groups', 1)
        weight = normal(4, 4 // settings.get('groups', 1), *kernel)
        offset, mask = 2 * normal(2, 2 * taps, *out), RNG.random((2, taps, *out)).round(2)
        yield f'deform_conv_{name}', 'deform_conv2d', [maps, offset, weight], settings
        yield f'modulated_{name}', 'modulated_deform_conv2d', [maps, offset, mask, weight, normal(4)], settings
    weight = normal(4, 4, 3, 3)
    # As layers begin: positions are pixels, where the gradient of an offset is that of the right side.
    zeros, ones = np.zeros((2, 18, 4, 5)), np.ones((2, 9, 4, 5))
    yield 'deform_conv_zeros', 'deform_conv2d', [maps, zeros, weight], dict(padding=1)
    yield 'modulated_zeros', 'modulated_deform_conv2d', [maps, zeros, ones, weight], dict(padding=1)
    far = 100 * normal(2, 18, 4, 5)
    yield 'deform_conv_far', 'deform_conv2d', [maps, far, weight], dict(padding=1)
    # DyHead convolves a smaller level with the offsets of a larger one.
    offset, mask = normal(2, 18, 5, 7), RNG.random((2, 9, 5, 7)).round(2)
    yield 'modulated_oversized', 'modulated_deform_conv2d', [maps, offset, mask, weight], dict(padding=1)
    yield 'modulated_no_bias', 'modulated_deform_conv2d', [maps, zeros + 0.3, ones, weight, None], dict(padding=1)


def psa_cases():
    for kind in (0, 1):
        yield f'psa_mask_{kind}', 'psa_mask', [normal(2, 35, 4, 6), kind, [5, 7]], {}


def run(operator: str, arguments: list, settings: dict, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Returns what an operator of MMCV returns, and the gradients of its floating-point arguments."""
    tensors = []
    for value in arguments:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value.copy())
            value = value.to(dtype).requires_grad_() if value.is_floating_point() else value
        tensors.append(value)
    positional = settings if operator in ('roi_align', 'deform_conv2d', 'modulated_deform_conv2d', 'psa_mask') else None
    if positional is None:
        detached = [value.detach() if isinstance(value, torch.Tensor) else value for value in tensors]
        result = getattr(mmcv.ops, operator)(*detached, **settings)
    else:  # autograd functions take no keywords
        function = mmcv.ops.psa_mask.psa_mask if operator == 'psa_mask' else getattr(mmcv.ops, operator)
        result = function(*tensors, *ordered(operator, settings, len(tensors)))
    if operator == 'nms_match':
        return {
            'out0': np.array([len(group) for group in result], int),
            'out1': np.array(sum(map(list, result), []), int),
        }
    outputs = result if isinstance(result, tuple) else (result,)
    if operator in ('nms', 'batched_nms'):
        return {'out1': result[1].numpy()}  # the others are the boxes and scores at these indices
    found = {f'out{index}': output.detach().numpy() for index, output in enumerate(outputs)}
    if outputs[0].requires_grad:
        weights = torch.arange(outputs[0].numel(), dtype=torch.float64).cos().view_as(outputs[0])
        (outputs[0] * weights.to(dtype)).sum().backward()
        for index, tensor in enumerate(tensors):
            if isinstance(tensor, torch.Tensor) and tensor.grad is not None:
                found[f'grad{index}'] = tensor.grad.numpy()
    return found


def ordered(operator: str, settings: dict, count: int) -> list:
    """Returns an autograd function's settings in order."""
    if operator == 'psa_mask':
        return []
    if operator == 'roi_align':
        defaults = dict(output_size=1, spatial_scale=1.0, sampling_ratio=0, pool_mode='avg', aligned=True)
    else:
        defaults = dict(stride=1, padding=0, dilation=1, groups=1, deform_groups=1)
    bias = [None] if operator == 'modulated_deform_conv2d' and count == 4 else []
    return bias + [settings.get(name, default) for name, default in defaults.items()]


def main() -> None:
    stored: dict[str, np.ndarray] = {}
    cases = {}
    for name, operator, arguments, settings in (*nms_cases(), *roi_cases(), *deform_cases(), *psa_cases()):
        references = []
        for index, value in enumerate(arguments):
            if isinstance(value, np.ndarray):
                # Numbers have few digits; both types start from the same ones.
                value = value.astype(np.float32) if value.dtype.kind == 'f' else value
                arguments[index] = value
                content = repr((value.shape, value.dtype)).encode() + value.tobytes()
                key = f'input/{zlib.crc32(content):08x}'  # cases share inputs
                stored[key] = value
                value = key
            references.append(value)
        cases[name] = dict(operator=operator, arguments=references, settings=settings)
        for result, value in run(operator, arguments, settings, torch.float32).items():
            stored[f'{name}/{result}'] = value
        if name in IN_FLOAT64:
            for result, value in run(operator, arguments, settings, torch.float64).items():
                stored[f'{name}/{result}_float64'] = value
    stored['cases'] = np.array(json.dumps(cases))
    np.savez_compressed(FILE, **stored)
    print(f'{FILE}: {len(cases)} cases, {FILE.stat().st_size / 1024:.0f} KiB')


if __name__ == '__main__':
    main()
