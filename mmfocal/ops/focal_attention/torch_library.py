"""Focal attention as operators of PyTorch's library, for autograd, `torch.compile`, `torch.export` and FLOP counters.

Their maps come as lists of either form. Unpacked: `qkv` is [q, k, v] and `pooled` is [k, v, k, v, …], level by level,
each (B, H, W, heads, head_dim). Packed: `qkv` is one (B, H, W, 3, heads, head_dim), and `pooled` has one
(B, h, w, 2, heads, head_dim) per level.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmfocal.ops.focal_attention.backends import choose, load
from mmfocal.ops.focal_attention.geometry import Layout


def run_backend(
    qkv: list[Tensor],
    pooled: list[Tensor],
    bias: Tensor | None,
    layout: Layout,
    dropout_p: float,
    backend: str,
) -> Tensor:
    """Computes focal attention by a backend, or by the fastest that supports the input ('auto').

    Returns:
        (B, H, W, heads, head_dim).
    """
    q, k, v, pooled_kv = unpack_maps(qkv, pooled)
    name = choose(backend, q, layout, dropout_p)
    if name == 'reference':
        return load(name).forward(q, k, v, pooled_kv, bias, layout, dropout_p)[0]
    return fused_attention(qkv, pooled, bias, pack_layout(layout), name)[0]


def unpack_maps(
    qkv: Sequence[Tensor], pooled: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, ...]]]:
    """Returns q, k, v, and the keys and values of each pooled level, from maps of either form."""
    if len(qkv) == 1:
        q, k, v = qkv[0].unbind(3)
        return q, k, v, [x.unbind(3) for x in pooled]
    q, k, v = qkv
    return q, k, v, list(zip(pooled[::2], pooled[1::2]))


def pack_layout(layout: Layout) -> str:
    """Returns a layout as a string: an operator's schema takes no other objects than tensors, numbers and strings."""
    return (
        f'{layout.window_size} {layout.expand_size} {layout.focal_window} {layout.pooled_levels} '
        f'{layout.border} {"shifted" if layout.shifted else "plain"}'
    )


@functools.lru_cache(maxsize=64)
def unpack_layout(packed: str) -> Layout:
    """Returns the layout that `pack_layout` packed."""
    *numbers, border, shift = packed.split()
    window_size, expand_size, focal_window, pooled_levels = map(int, numbers)
    return Layout(window_size, expand_size, focal_window, pooled_levels, border, shift == 'shifted')


# PyTorch 2.6 infers no schema from `list[Tensor]`
@torch.library.custom_op(
    'mmfocal::focal_attention',
    mutates_args=(),
    schema='(Tensor[] qkv, Tensor[] pooled, Tensor? bias, str layout, str backend) -> (Tensor, Tensor)',
)
def fused_attention(
    qkv: list[Tensor], pooled: list[Tensor], bias: Tensor | None, layout: str, backend: str
) -> tuple[Tensor, Tensor]:
    """Focal attention by a backend with a backward of its own.

    Returns:
        The output, (B, H, W, heads, head_dim), and for backward the log-sum-exp of each query's logits, (B, H, W,
        heads) in float32, or an empty tensor if the backend does not save it.
    """
    with torch.autocast(qkv[0].device.type, enabled=False):
        return load(backend).forward(*unpack_maps(qkv, pooled), bias, unpack_layout(layout))


@fused_attention.register_fake
def _(qkv, pooled, bias, layout, backend):
    q, *_ = unpack_maps(qkv, pooled)
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32) if load(backend).SAVES_LSE else q.new_empty(0)
    return q.new_empty(q.shape), lse


@torch.library.custom_op(
    'mmfocal::focal_attention_backward',
    mutates_args=(),
    schema=(
        '(Tensor grad_out, Tensor[] qkv, Tensor[] pooled, Tensor? bias, Tensor out, Tensor lse, str layout, '
        'str backend, bool bias_grad) -> (Tensor[], Tensor[], Tensor)'
    ),
)
def fused_attention_backward(
    grad_out: Tensor,
    qkv: list[Tensor],
    pooled: list[Tensor],
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    layout: str,
    backend: str,
    bias_grad: bool,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of qkv, of pooled, and, if `bias_grad`, of the bias (else an empty tensor)."""
    grad_qkv, grad_pooled = _empty_like(qkv), _empty_like(pooled)
    with torch.autocast(grad_out.device.type, enabled=False):
        grad_bias = load(backend).backward(
            grad_out,
            *unpack_maps(qkv, pooled),
            bias,
            out,
            lse,
            unpack_layout(layout),
            bias_grad,
            *unpack_maps(grad_qkv, grad_pooled),
        )
    return grad_qkv, grad_pooled, grad_out.new_empty(0) if grad_bias is None else grad_bias


@fused_attention_backward.register_fake
def _(grad_out, qkv, pooled, bias, out, lse, layout, backend, bias_grad):
    grad_bias = bias.new_empty(bias.shape) if bias_grad else grad_out.new_empty(0)
    return _empty_like(qkv), _empty_like(pooled), grad_bias


def _empty_like(maps: Sequence[Tensor]) -> list[Tensor]:
    """Contiguous, unlike what `torch.empty_like` returns."""
    return [x.new_empty(x.shape) for x in maps]


def _setup_context(ctx, inputs, output):
    qkv, pooled, bias, ctx.layout, ctx.backend = inputs
    ctx.count = len(qkv)
    ctx.save_for_backward(*qkv, *pooled, bias, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out, _):
    *maps, bias, out, lse = ctx.saved_tensors
    bias_grad = ctx.needs_input_grad[2]
    grad_qkv, grad_pooled, grad_bias = fused_attention_backward(
        grad_out, maps[: ctx.count], maps[ctx.count :], bias, out, lse, ctx.layout, ctx.backend, bias_grad
    )
    return grad_qkv, grad_pooled, grad_bias if bias_grad else None, None, None


fused_attention.register_autograd(_backward, setup_context=_setup_context)


def focal_attention_flops(shape: Sequence[int], layout: Layout) -> int:
    """Returns the floating-point operations of focal attention's two matrix products.

    Padding to whole windows and masked keys are counted: they are computed. Papers and MMEngine's counter take a
    multiplication with its addition for one: half of this.

    Args:
        shape: (B, H, W, heads, head_dim) of the queries, H and W multiples of the window size.
        layout: Windows, ring and pooled levels.

    Returns:
        4·B·H·W·heads·head_dim·keys.
    """
    batch, height, width, heads, head_dim = shape
    return 4 * batch * height * width * heads * head_dim * layout.keys


@register_flop_formula(torch.ops.mmfocal.focal_attention)
def _(qkv, pooled, bias, layout, *args, out_shape=None, **kwargs):
    batch, height, width, *_, heads, head_dim = qkv[0]  # the counter gives shapes in place of tensors
    return focal_attention_flops((batch, height, width, heads, head_dim), unpack_layout(layout))


@register_flop_formula(torch.ops.mmfocal.focal_attention_backward)
def _(grad_out, qkv, pooled, bias, out, lse, layout, *args, out_shape=None, **kwargs):
    # the logits again, then the gradients of weights, values, queries and keys: five products where forward has two
    return focal_attention_flops(grad_out, unpack_layout(layout)) * 5 // 2
