"""Multiply-adds of operators that MMEngine's complexity counter does not know.

A handle takes the jit values of a traced operator's inputs and outputs.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape

from mmfocal.ops.focal_attention import focal_attention_flops
from mmfocal.ops.focal_attention.torch_library import unpack_layout


def register_flop_handles() -> None:
    """Makes all of MMEngine's counters know the operators of `HANDLES`; calling it again changes nothing."""
    for name, handle in HANDLES.items():
        # MMEngine has no public place for handles of all counters, only set_op_handle of one
        complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS[name] = handle
        complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS[name] = complexity_analysis.generic_activation_jit()


def _focal_attention(inputs: list[Any], outputs: list[Any]) -> int:
    layout = unpack_layout(inputs[3].toIValue())
    return focal_attention_flops(outputs[0].type().sizes(), layout) // 2


def _scaled_dot_product_attention(inputs: list[Any], outputs: list[Any]) -> int:
    query, key, value = map(get_shape, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    return prod(get_shape(outputs[0])) * get_shape(inputs[1])[-1]


def _deformable_convolution(weight: int) -> Callable[[list[Any], list[Any]], int]:
    """Returns a handle that counts the product with the weight, input number `weight`, but not the sampling."""

    def count(inputs: list[Any], outputs: list[Any]) -> int:
        batch, _, *size = get_shape(outputs[0])
        return batch * prod(size) * prod(get_shape(inputs[weight]))

    return count


HANDLES: dict[str, Callable[[list[Any], list[Any]], int]] = {
    'mmfocal::focal_attention': _focal_attention,
    'aten::scaled_dot_product_attention': _scaled_dot_product_attention,
    'aten::baddbmm': _baddbmm,
    'prim::PythonOp.DeformConv2dFunction': _deformable_convolution(2),  # of MMCV, like the next
    'prim::PythonOp.ModulatedDeformConv2dFunction': _deformable_convolution(3),
}
