"""The MLP of a block; on a CPU in chunks of tokens, whose hidden channels stay in its cache."""

from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmfocal.models.linear import (
    is_differentiated_again,
    is_plain,
    is_plain_call,
    linear,
    pack,
    product,
    weight_gradient,
)

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
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        if self._runs_in_chunks(x):
            return _mlp_in_chunks(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self.drop(linear(self.fc2, self.drop(self.act(linear(self.fc1, x)))))

    def _runs_in_chunks(self, x: Tensor) -> bool:
        """Returns whether chunks are faster, and nobody can tell them from calling the layers."""
        return (
            is_plain_call(x, self.fc1, self.fc2)
            and x.numel() * self.expansion > CHUNK_VALUES
            and self.fc1.bias is not None
            and self.fc2.bias is not None
            and is_plain(self.act, nn.GELU)
            and is_plain(self.drop, nn.Dropout)
            and self.act.approximate == 'none'
            and (self.drop.p == 0 or not self.drop.training)
        )


def _mlp_in_chunks(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    args = (x, weight1, bias1, weight2, bias2)
    if torch.is_grad_enabled() and any(arg.requires_grad for arg in args):
        return _ChunkedMlp.apply(*args)
    return _forward_in_chunks(*args)


def _forward_in_chunks(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, hidden: list[Tensor] | None = None
) -> Tensor:
    """Computes the MLP; what GELU takes goes into `hidden`, chunk by chunk, if that is given."""
    tokens = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(tokens)
    length = _chunk_length(weight1)
    weight1, weight2 = pack(weight1, length), pack(weight2, length)
    for part in _chunks(tokens, length):
        if hidden is None:
            activated = product(tokens[part], weight1, bias1, gelu=True)
        else:
            hidden.append(product(tokens[part], weight1, bias1))
            activated = F.gelu(hidden[-1])
        out[part] = product(activated, weight2, bias2)
    return out.view(x.shape)


def _chunk_length(weight1: Tensor) -> int:
    return max(1, CHUNK_VALUES // len(weight1))


def _chunks(tokens: Tensor, length: int) -> Iterator[slice]:
    for start in range(0, len(tokens), length):
        yield slice(start, start + length)


class _ChunkedMlp(torch.autograd.Function):
    """The MLP in chunks of tokens; of the hidden channels it saves what GELU takes, not what it returns."""

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden: list[Tensor] = []
        out = _forward_in_chunks(x, weight1, bias1, weight2, bias2, hidden)
        ctx.save_for_backward(x, weight1, bias1, weight2, *hidden)
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, ...]:
        x, weight1, bias1, weight2, *hidden = ctx.saved_tensors
        tokens, grads = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, grad_out.shape[-1])
        if is_differentiated_again(grad_out):  # no chunks
            before = F.linear(tokens, weight1, bias1)
            grad_hidden = torch.ops.aten.gelu_backward(grads @ weight2, before)
            return (
                (grad_hidden @ weight1).view(x.shape),
                grad_hidden.t() @ tokens,
                grad_hidden.sum(0),
                grads.t() @ F.gelu(before),
                grads.sum(0),
            )
        grad_tokens = torch.empty_like(tokens)
        grad_weight1, grad_bias1 = torch.zeros_like(weight1), torch.zeros_like(bias1)
        grad_weight2 = torch.zeros_like(weight2)
        length = _chunk_length(weight1)
        back1, back2 = pack(weight1.t(), length), pack(weight2.t(), length)
        for part, before in zip(_chunks(tokens, length), hidden):
            grad_weight2 += weight_gradient(grads[part], F.gelu(before))
            grad_hidden = torch.ops.aten.gelu_backward(product(grads[part], back2), before)
            grad_weight1 += weight_gradient(grad_hidden, tokens[part])
            grad_bias1 += grad_hidden.sum(0)
            grad_tokens[part] = product(grad_hidden, back1)
        return grad_tokens.view(x.shape), grad_weight1, grad_bias1, grad_weight2, grads.sum(0)
