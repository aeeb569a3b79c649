"""Linear layers by oneDNN on AMD's CPUs with AVX-512, where PyTorch's own products, of MKL, use AVX2.

Nobody can tell them from calling the layers but by their speed: hooks, tracing, `torch.compile`, autocast and function
transforms get the plain layer.
"""

import functools
import platform
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

# Below either, three products by oneDNN and their packing take longer than MKL's.
TRAINING_TOKENS, TRAINING_PRODUCTS = 128, 2**24


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Calls a linear layer, by oneDNN if that is faster: (…, in) → (…, out)."""
    if not is_plain_call(x, layer) or x.dtype != torch.float32 or not uses_onednn():
        return layer(x)
    args = (x, layer.weight, layer.bias)
    if not torch.is_grad_enabled() or not any(arg is not None and arg.requires_grad for arg in args):
        return product(*args)
    tokens = x.numel() // max(1, layer.in_features)
    if tokens < TRAINING_TOKENS or tokens * layer.weight.numel() < TRAINING_PRODUCTS:
        return layer(x)
    return _Linear.apply(*args)


def uses_onednn() -> bool:
    """Returns whether products by oneDNN are faster here, and `torch.backends.mkldnn` is not switched off."""
    return _onednn_is_faster() and bool(torch.backends.mkldnn.enabled)


@functools.cache
def _onednn_is_faster() -> bool:
    return (
        torch.backends.cpu.get_cpu_capability() == 'AVX512'
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
        and _is_amd()
    )


def _is_amd() -> bool:
    info = Path('/proc/cpuinfo')
    return 'AuthenticAMD' in (info.read_text() if info.exists() else platform.processor())


def is_plain_call(x: Tensor, *layers: nn.Module) -> bool:
    """Returns whether nobody can tell computing what these layers do to `x` from calling them.

    Args:
        x: A plain tensor in float32 or float64 on the CPU, or the answer is no.
        layers: Linear layers, without hooks, parametrisations, quantisation and sharding, or the answer is no.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) is Tensor
        and x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and all(is_plain(layer, nn.Linear) and _has_plain_parameters(layer, x.dtype) for layer in layers)
        and not _calls_are_observed()
    )


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Returns whether a module is of exactly this class, which a parametrised one is not, and nobody hooked into it."""
    return type(module) is kind and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in module.__dict__
    )


def _has_plain_parameters(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Returns whether weight and bias are plain tensors on the CPU, neither quantised nor sharded."""
    return all(
        type(parameter) in (nn.Parameter, Tensor) and parameter.dtype == dtype and parameter.device.type == 'cpu'
        for parameter in (layer.weight, layer.bias)
        if parameter is not None
    )


def _calls_are_observed() -> bool:
    """Returns whether something outside the model intercepts calls of modules or operators, or transforms functions."""
    return (
        bool(nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
        or bool(nn_module._global_backward_hooks or nn_module._global_backward_pre_hooks)
        or torch.is_autocast_enabled('cpu')
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def is_differentiated_again(grad: Tensor) -> bool:
    """Returns whether gradients are differentiated again (create_graph) or come in batches (is_grads_batched)."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad)


def pack(weight: Tensor, rows: int) -> Tensor:
    """Returns a weight (out, in) for `product`, laid out once for several products with so many rows each."""
    if uses_onednn() and weight.dtype == torch.float32:
        return torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return weight


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """Returns x @ weight.T + bias, (…, out), and its GELU if that is asked for; x is float32 or float64 on the CPU."""
    if uses_onednn() and x.dtype == torch.float32:
        name, algorithm = ('gelu', 'none') if gelu else ('none', '')
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Returns grad.T @ x, (out, in), of (tokens, out) and (tokens, in)."""
    if uses_onednn() and x.dtype == torch.float32:
        weight = x.new_empty(grad.shape[1], x.shape[1])  # of which only the shape counts
        return torch.ops.aten.mkldnn_linear_backward_weights(grad.to_mkldnn(), x.to_mkldnn(), weight, False)[0]
    return grad.t() @ x


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        tokens, grads = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, grad_out.shape[-1])
        grad_x = grad_weight = grad_bias = None
        again = is_differentiated_again(grad_out)
        if ctx.needs_input_grad[0]:
            grad_x = (grads @ weight if again else product(grads, weight.t())).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = grads.t() @ tokens if again else weight_gradient(grads, tokens)
        if ctx.needs_input_grad[2]:
            grad_bias = grads.sum(0)
        return grad_x, grad_weight, grad_bias
