"""Makes MMEngine's complexity counter count focal attention."""
from typing import Any, List

from mmengine.analysis import complexity_analysis

from mmfocal.ops import Layout, focal_attention_flops


def _count(inputs: List[Any], outputs: List[Any]) -> int:
    """Multiply-adds of a traced `mmfocal::focal_attention`, from jit values as MMEngine's handles take them."""
    qkv, pooled, _, window_size, expand_size, focal_window, *_ = inputs
    packed = len(list(qkv.node().inputs())) == 1
    levels = len(list(pooled.node().inputs())) // (1 if packed else 2)
    layout = Layout(window_size.toIValue(), expand_size.toIValue(), focal_window.toIValue(), levels)
    return focal_attention_flops(tuple(outputs[0].type().sizes()), layout) // 2


# MMEngine has no public place for handles of all counters, only set_op_handle of one
complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS['mmfocal::focal_attention'] = _count
complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS['mmfocal::focal_attention'] = complexity_analysis.generic_activation_jit()
