"""Operators that MMEngine's complexity counter does not know, multiply-adds each; importing this registers them.

A handle gets the jit values of a traced operator's inputs and outputs.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape

from mmfocal.ops import Layout, focal_attention_flops


def _focal_attention(inputs: list[Any], outputs: list[Any]) -> int:
    qkv, pooled, _, window_size, expand_size, focal_window, *_ = inputs
    packed = len(list(qkv.node().inputs())) == 1
    levels = len(list(pooled.node().inputs())) // (1 if packed else 2)
    layout = Layout(window_size.toIValue(), expand_size.toIValue(), focal_window.toIValue(), levels)
    return focal_attention_flops(tuple(outputs[0].type().sizes()), layout) // 2


def _scaled_dot_product_attention(inputs: list[Any], outputs: list[Any]) -> int:
    query, key, value = map(get_shape, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    return prod(get_shape(outputs[0])) * get_shape(inputs[1])[-1]


def _deformable_convolution(weight: int) -> Callable[[list[Any], list[Any]], int]:
    """Counts the product with the weight, which is input number `weight`; the sampling before it is not counted."""

    def count(inputs, outputs):
        batch, _, *size = get_shape(outputs[0])
        return batch * prod(size) * prod(get_shape(inputs[weight]))

    return count


HANDLES = {
    'mmfocal::focal_attention': _focal_attention,
    'aten::scaled_dot_product_attention': _scaled_dot_product_attention,
    'aten::baddbmm': _baddbmm,
    'prim::PythonOp.DeformConv2dFunction': _deformable_convolution(2),  # of MMCV, as the next
    'prim::PythonOp.ModulatedDeformConv2dFunction': _deformable_convolution(3),
}
for name, handle in HANDLES.items():
    # MMEngine has no public place for handles of all counters, only set_op_handle of one
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS[name] = handle
    complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS[name] = complexity_analysis.generic_activation_jit()
