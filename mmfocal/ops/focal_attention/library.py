"""The fused backends as operators of PyTorch's library, for autograd, `torch.compile`, `torch.export` and FLOP counters."""
from typing import List, Optional, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .geometry import Layout


@torch.library.custom_op('mmfocal::focal_attention', mutates_args=())
def fused_attention(q: Tensor, k: Tensor, v: Tensor, pooled_k: List[Tensor], pooled_v: List[Tensor], bias: Optional[Tensor],
                    window_size: int, expand_size: int, focal_window: int, border: str, shifted: bool,
                    backend: str) -> Tuple[Tensor, Tensor]:
    """Focal attention by a fused backend.

    Returns:
        Tuple[Tensor, Tensor]: The output, (B, H, W, heads, head_dim), and the logits' log-sum-exp for the backend's backward,
            (B, H, W, heads) in float32, or an empty tensor if that backend does not keep it.
    """
    layout = Layout(window_size, expand_size, focal_window, len(pooled_k), border, shifted)
    with torch.autocast(q.device.type, enabled=False):
        return load_backend(backend).forward(q, k, v, list(zip(pooled_k, pooled_v)), bias, layout)


@fused_attention.register_fake
def _(q, k, v, pooled_k, pooled_v, bias, window_size, expand_size, focal_window, border, shifted, backend):
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32) if backend == 'triton' else q.new_empty(0)
    return q.new_empty(q.shape), lse


@torch.library.custom_op('mmfocal::focal_attention_backward', mutates_args=())
def fused_attention_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, pooled_k: List[Tensor], pooled_v: List[Tensor],
                             bias: Optional[Tensor], out: Tensor, lse: Tensor, window_size: int, expand_size: int,
                             focal_window: int, border: str, shifted: bool, backend: str,
                             bias_grad: bool) -> Tuple[Tensor, Tensor, Tensor, List[Tensor], List[Tensor], Tensor]:
    """Gradients of q, k, v, pooled_k, pooled_v and, if `bias_grad`, of the bias (else an empty tensor)."""
    layout = Layout(window_size, expand_size, focal_window, len(pooled_k), border, shifted)
    pooled_kv = list(zip(pooled_k, pooled_v))
    with torch.autocast(q.device.type, enabled=False):
        grad_q, grad_k, grad_v, grad_pooled, grad_bias = load_backend(backend).backward(
            grad_out, q, k, v, pooled_kv, bias, out, lse, layout, bias_grad)
    return (grad_q, grad_k, grad_v, [x for x, _ in grad_pooled], [x for _, x in grad_pooled],
            q.new_empty(0) if grad_bias is None else grad_bias)


@fused_attention_backward.register_fake
def _(grad_out, q, k, v, pooled_k, pooled_v, bias, out, lse, window_size, expand_size, focal_window, border, shifted, backend, bias_grad):
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    pooled = [[x.new_empty(x.shape) for x in maps] for maps in (pooled_k, pooled_v)]
    return (*grads, *pooled, bias.new_empty(bias.shape) if bias_grad else q.new_empty(0))


def _setup_context(ctx, inputs, output):
    q, k, v, pooled_k, pooled_v, bias, *ctx.options = inputs
    ctx.levels = len(pooled_k)
    ctx.save_for_backward(q, k, v, *pooled_k, *pooled_v, bias, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out, _):
    q, k, v, *pooled, bias, out, lse = ctx.saved_tensors
    bias_grad = ctx.needs_input_grad[5]
    *grads, grad_bias = fused_attention_backward(
        grad_out, q, k, v, pooled[:ctx.levels], pooled[ctx.levels:], bias, out, lse, *ctx.options, bias_grad)
    return (*grads, grad_bias if bias_grad else None, *[None] * len(ctx.options))


fused_attention.register_autograd(_backward, setup_context=_setup_context)


def load_backend(name: str):
    """The module of a fused backend; Triton is imported only where it is asked for."""
    if name == 'gather':
        from . import gather as backend
    else:
        from . import triton as backend
    return backend


def focal_attention_flops(shape: Tuple[int, int, int, int, int], layout: Layout) -> int:
    """Floating-point operations of the two matrix products of focal attention.

    Padding of the map to whole windows is counted as it is computed; keys that masks hide are counted as well. Papers and
    MMEngine's counter take a multiplication with its addition for one: half of this.

    Args:
        shape (Tuple[int, int, int, int, int]): (B, H, W, heads, head_dim) of the queries, H and W multiples of the window size.
        layout (Layout): Windows, ring and pooled levels.

    Returns:
        int: 4·B·H·W·heads·head_dim·keys: two for each multiplication and addition.
    """
    batch, height, width, heads, head_dim = shape
    return 4 * batch * height * width * heads * head_dim * layout.keys


@register_flop_formula(torch.ops.mmfocal.focal_attention)
def _(q, k, v, pooled_k, pooled_v, bias, window_size, expand_size, focal_window, *options, out_shape=None, **kwargs):
    return focal_attention_flops(q, Layout(window_size, expand_size, focal_window, len(pooled_k)))


@register_flop_formula(torch.ops.mmfocal.focal_attention_backward)
def _(grad_out, q, k, v, pooled_k, pooled_v, bias, out, lse, window_size, expand_size, focal_window, *options, out_shape=None, **kwargs):
    # the logits again, then the gradients of weights, values, queries and keys: five products where forward has two
    return focal_attention_flops(q, Layout(window_size, expand_size, focal_window, len(pooled_k))) * 5 // 2
