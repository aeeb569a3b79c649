"""The fused backends as operators of PyTorch's library, for autograd, `torch.compile`, `torch.export` and FLOP counters.

Their maps come as lists: `qkv` is [q, k, v] and `pooled` [k, v, k, v, …], level by level, each (B, H, W, heads, head_dim), or,
where they lie together, `qkv` is one tensor (B, H, W, 3, heads, head_dim) and `pooled` has one (B, h, w, 2, heads, head_dim) a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmfocal.ops.focal_attention.geometry import Layout


def unpacked(
    qkv: Sequence[Tensor], pooled: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """q, k, v, and each pooled level's keys and values, from either form of the lists."""
    if len(qkv) == 1:
        return (*qkv[0].unbind(3), [x.unbind(3) for x in pooled])
    return (*qkv, list(zip(pooled[::2], pooled[1::2])))


def _layout(qkv, pooled, window_size, expand_size, focal_window, border='wrap', shifted=False):
    return Layout(
        window_size, expand_size, focal_window, len(pooled) if len(qkv) == 1 else len(pooled) // 2, border, shifted
    )


@torch.library.custom_op('mmfocal::focal_attention', mutates_args=())
def fused_attention(
    qkv: list[Tensor],
    pooled: list[Tensor],
    bias: Tensor | None,
    window_size: int,
    expand_size: int,
    focal_window: int,
    border: str,
    shifted: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Focal attention by a fused backend.

    Returns:
        Tuple[Tensor, Tensor]: The output, (B, H, W, heads, head_dim), and the logits' log-sum-exp for the backend's backward,
            (B, H, W, heads) in float32, or an empty tensor if that backend does not keep it.
    """
    layout = _layout(qkv, pooled, window_size, expand_size, focal_window, border, shifted)
    with torch.autocast(qkv[0].device.type, enabled=False):
        return load_backend(backend).forward(*unpacked(qkv, pooled), bias, layout)


@fused_attention.register_fake
def _(qkv, pooled, bias, window_size, expand_size, focal_window, border, shifted, backend):
    q, *_ = unpacked(qkv, pooled)
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32) if backend == 'triton' else q.new_empty(0)
    return q.new_empty(q.shape), lse


@torch.library.custom_op('mmfocal::focal_attention_backward', mutates_args=())
def fused_attention_backward(
    grad_out: Tensor,
    qkv: list[Tensor],
    pooled: list[Tensor],
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    window_size: int,
    expand_size: int,
    focal_window: int,
    border: str,
    shifted: bool,
    backend: str,
    bias_grad: bool,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of qkv, pooled and, if `bias_grad`, of the bias (else an empty tensor)."""
    layout = _layout(qkv, pooled, window_size, expand_size, focal_window, border, shifted)
    grads = [[x.new_empty(x.shape) for x in maps] for maps in (qkv, pooled)]
    with torch.autocast(grad_out.device.type, enabled=False):
        grad_bias = load_backend(backend).backward(
            grad_out, *unpacked(qkv, pooled), bias, out, lse, layout, bias_grad, *unpacked(*grads)
        )
    return (*grads, grad_out.new_empty(0) if grad_bias is None else grad_bias)


@fused_attention_backward.register_fake
def _(
    grad_out, qkv, pooled, bias, out, lse, window_size, expand_size, focal_window, border, shifted, backend, bias_grad
):
    grads = [[x.new_empty(x.shape) for x in maps] for maps in (qkv, pooled)]
    return (*grads, bias.new_empty(bias.shape) if bias_grad else grad_out.new_empty(0))


def _setup_context(ctx, inputs, output):
    qkv, pooled, bias, *ctx.options = inputs
    ctx.count = len(qkv)
    ctx.save_for_backward(*qkv, *pooled, bias, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out, _):
    *maps, bias, out, lse = ctx.saved_tensors
    bias_grad = ctx.needs_input_grad[2]
    grad_qkv, grad_pooled, grad_bias = fused_attention_backward(
        grad_out, maps[: ctx.count], maps[ctx.count :], bias, out, lse, *ctx.options, bias_grad
    )
    return (grad_qkv, grad_pooled, grad_bias if bias_grad else None, *[None] * len(ctx.options))


fused_attention.register_autograd(_backward, setup_context=_setup_context)


def load_backend(name: str):
    """The module of a fused backend; Triton is imported only where it is asked for."""
    if name == 'gather':
        from mmfocal.ops.focal_attention.backends import gather as backend
    else:
        from mmfocal.ops.focal_attention.backends import triton as backend
    return backend


def focal_attention_flops(shape: tuple[int, int, int, int, int], layout: Layout) -> int:
    """Floating-point operations of the two matrix products of focal attention.

    Padding of the map to whole windows is counted, and so are keys that masks hide: they are computed. Papers and MMEngine's
    counter take a multiplication with its addition for one: half of this.

    Args:
        shape (Tuple[int, int, int, int, int]): (B, H, W, heads, head_dim) of the queries, H and W multiples of the window size.
        layout (Layout): Windows, ring and pooled levels.

    Returns:
        int: 4·B·H·W·heads·head_dim·keys.
    """
    batch, height, width, heads, head_dim = shape
    return 4 * batch * height * width * heads * head_dim * layout.keys


@register_flop_formula(torch.ops.mmfocal.focal_attention)
def _(qkv, pooled, bias, window_size, expand_size, focal_window, *options, out_shape=None, **kwargs):
    batch, height, width, *_, heads, head_dim = qkv[0]  # shapes here
    return focal_attention_flops(
        (batch, height, width, heads, head_dim), _layout(qkv, pooled, window_size, expand_size, focal_window)
    )


@register_flop_formula(torch.ops.mmfocal.focal_attention_backward)
def _(
    grad_out, qkv, pooled, bias, out, lse, window_size, expand_size, focal_window, *options, out_shape=None, **kwargs
):
    # the logits again, then the gradients of weights, values, queries and keys: five products where forward has two
    return focal_attention_flops(grad_out, _layout(qkv, pooled, window_size, expand_size, focal_window)) * 5 // 2
