from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

HIDDEN_VALUES = 2**20  # of an MLP at a time on a CPU: they stay in its cache


class Mlp(nn.Module):
    """Linear, GELU, linear; dropout after both.

    Args:
        dim (int): Channels in and out.
        hidden (int): Channels between.
        drop (float): Dropout rate.
    """

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        if torch.is_grad_enabled() and pays_in_steps(x) and not self.drop.p:
            return _MlpInSteps.apply(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def pays_in_steps(x: Tensor) -> bool:
    """Whether to compute some tokens at a time: on a CPU, memory is slower than the arithmetic on it."""
    return (
        x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def in_steps(hidden: int, dim: int, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields parts of maps along `dim`, whose tokens have about HIDDEN_VALUES hidden channels, `hidden` each."""
    length = maps[0].shape[dim]
    steps = -(-maps[0].numel() // maps[0].shape[-1] * hidden // HIDDEN_VALUES)
    return zip(*(x.split(-(-length // min(steps, length)), dim) for x in maps))


class _MlpInSteps(torch.autograd.Function):
    """The MLP, some tokens at a time; of the hidden channels it keeps only what GELU takes, not what it gives."""

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        hidden = tokens.new_empty(len(tokens), len(weight1))
        out = torch.empty_like(tokens)
        for part, hidden_part, out_part in in_steps(len(weight1), 0, tokens, hidden, out):
            torch.addmm(bias1, part, weight1.t(), out=hidden_part)
            torch.addmm(bias2, F.gelu(hidden_part), weight2.t(), out=out_part)
        ctx.save_for_backward(tokens, hidden, weight1, weight2)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        tokens, hidden, weight1, weight2 = ctx.saved_tensors
        grads = grad_out.reshape(tokens.shape)
        grad_tokens = torch.empty_like(tokens)
        grad_weight1, grad_bias1 = torch.zeros_like(weight1), weight1.new_zeros(len(weight1))
        grad_weight2 = torch.zeros_like(weight2)
        for part, hidden_part, grad, grad_part in in_steps(len(weight1), 0, tokens, hidden, grads, grad_tokens):
            grad_weight2.addmm_(grad.t(), F.gelu(hidden_part))
            grad_hidden = torch.ops.aten.gelu_backward(grad @ weight2, hidden_part)
            grad_weight1.addmm_(grad_hidden.t(), part)
            grad_bias1 += grad_hidden.sum(0)
            torch.mm(grad_hidden, weight1, out=grad_part)
        return grad_tokens.view(grad_out.shape), grad_weight1, grad_bias1, grad_weight2, grads.sum(0)
