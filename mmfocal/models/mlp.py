"""The MLP of a block; on a CPU in chunks of tokens, whose hidden channels stay in its cache."""

from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

CHUNK_VALUES = 2**20  # hidden values per chunk: 4 MB in float32


class Mlp(nn.Module):
    """Linear, GELU, linear; dropout after both.

    Args:
        dim: Channels in and out.
        hidden: Channels between.
        drop: Dropout rate.
    """

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)
        self.expansion = hidden / dim
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        if self._runs_in_chunks(x):
            return _mlp_in_chunks(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def _runs_in_chunks(self, x: Tensor) -> bool:
        """Returns whether chunks are faster, and nobody can tell them from calling the layers."""
        return (
            not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and type(x) is Tensor
            and x.numel() * self.expansion > CHUNK_VALUES
            and x.device.type == 'cpu'
            and x.dtype in (torch.float32, torch.float64)
            and _is_plain(self.fc1, nn.Linear)
            and _is_plain(self.act, nn.GELU)
            and _is_plain(self.fc2, nn.Linear)
            and _is_plain(self.drop, nn.Dropout)
            and self.act.approximate == 'none'
            and (self.drop.p == 0 or not self.drop.training)
            and _has_plain_parameters(self.fc1, x.dtype)
            and _has_plain_parameters(self.fc2, x.dtype)
            and not _calls_are_observed()
        )


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Returns whether a module is of exactly this class, which a parametrised one is not, and nobody hooked into it."""
    return type(module) is kind and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in module.__dict__
    )


def _has_plain_parameters(linear: nn.Module, dtype: torch.dtype) -> bool:
    """Returns whether weight and bias are plain tensors on the CPU, neither quantised nor sharded."""
    return all(
        type(parameter) in (nn.Parameter, Tensor) and parameter.dtype == dtype and parameter.device.type == 'cpu'
        for parameter in (linear.weight, linear.bias)
    )


def _calls_are_observed() -> bool:
    """Returns whether something outside the model intercepts calls of modules or operators, or transforms functions."""
    return (
        nn_module._has_any_global_hook()
        or torch.is_autocast_enabled('cpu')
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def _mlp_in_chunks(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    args = (x, weight1, bias1, weight2, bias2)
    if torch.is_grad_enabled() and any(arg.requires_grad for arg in args):
        return _ChunkedMlp.apply(*args)
    return _forward_in_chunks(*args)


def _forward_in_chunks(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """Computes the MLP; what GELU takes goes into `hidden` (tokens, hidden channels), if that is given."""
    tokens = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(tokens)
    workspace = tokens.new_empty(_chunk_length(weight1), len(weight1))
    for part in _chunks(tokens, weight1):
        chunk = tokens[part]
        activated = workspace[: len(chunk)]
        before = activated if hidden is None else hidden[part]
        torch.addmm(bias1, chunk, weight1.t(), out=before)
        torch.ops.aten.gelu.out(before, out=activated)
        torch.addmm(bias2, activated, weight2.t(), out=out[part])
    return out.view(x.shape)


def _chunk_length(weight1: Tensor) -> int:
    return max(1, CHUNK_VALUES // len(weight1))


def _chunks(tokens: Tensor, weight1: Tensor) -> Iterator[slice]:
    length = _chunk_length(weight1)
    for start in range(0, len(tokens), length):
        yield slice(start, start + length)


class _ChunkedMlp(torch.autograd.Function):
    """The MLP in chunks of tokens; of the hidden channels it saves what GELU takes, not what it returns."""

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = x.new_empty(x.numel() // x.shape[-1], len(weight1))
        out = _forward_in_chunks(x, weight1, bias1, weight2, bias2, hidden)
        ctx.save_for_backward(x, hidden, weight1, bias1, weight2)
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, ...]:
        x, hidden, weight1, bias1, weight2 = ctx.saved_tensors
        tokens, grads = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, grad_out.shape[-1])
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad_out):
            # gradients are differentiated again (create_graph) or come in batches (is_grads_batched): no chunks
            hidden = F.linear(tokens, weight1, bias1)
            grad_hidden = torch.ops.aten.gelu_backward(grads @ weight2, hidden)
            return (
                (grad_hidden @ weight1).view(x.shape),
                grad_hidden.t() @ tokens,
                grad_hidden.sum(0),
                grads.t() @ F.gelu(hidden),
                grads.sum(0),
            )
        grad_tokens = torch.empty_like(tokens)
        grad_weight1, grad_bias1 = torch.zeros_like(weight1), torch.zeros_like(bias1)
        grad_weight2 = torch.zeros_like(weight2)
        for part in _chunks(tokens, weight1):
            grad_weight2.addmm_(grads[part].t(), F.gelu(hidden[part]))
            grad_hidden = torch.ops.aten.gelu_backward(grads[part] @ weight2, hidden[part])
            grad_weight1.addmm_(grad_hidden.t(), tokens[part])
            grad_bias1 += grad_hidden.sum(0)
            torch.mm(grad_hidden, weight1, out=grad_tokens[part])
        return grad_tokens.view(x.shape), grad_weight1, grad_bias1, grad_weight2, grads.sum(0)
