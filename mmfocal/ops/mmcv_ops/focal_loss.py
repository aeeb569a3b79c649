"""Focal losses (RetinaNet) of sigmoids and of softmax, with the gradients in closed form."""

import torch
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import compute_dtype

TINY = torch.finfo(torch.float32).tiny  # the smallest argument of a logarithm


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills the loss of each sample and class.

    Args:
        input: Logits (N, C).
        target: Classes (N,); one outside 0 … C - 1 is background.
        weight: Of the classes (C,), by the target, or empty; background has weight 1.
        output: (N, C).
        gamma: Exponent of the modulating factor.
        alpha: Weight of positives; negatives have 1 - alpha.
    """
    p = compute_dtype(input).sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    negative = -(1 - alpha) * p**gamma * (1 - p).clamp(min=TINY).log()
    loss = torch.where(one_hot(target, input), positive, negative)
    output.copy_(loss * target_weight(target, weight, loss)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills the gradient of the summed loss; arguments as in `sigmoid_focal_loss_forward`."""
    p = compute_dtype(input).sigmoid()
    positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=TINY).log())
    negative = -(1 - alpha) * p**gamma * (gamma * (1 - p) * (1 - p).clamp(min=TINY).log() - p)
    gradient = torch.where(one_hot(target, input), positive, negative)
    grad_input.copy_(gradient * target_weight(target, weight, gradient)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills the loss of each sample.

    Args:
        input: Probabilities (N, C).
        target: Classes (N,); samples of a negative one are ignored.
        weight: Of the classes (C,), or empty.
        output: (N,).
        gamma: Exponent of the modulating factor.
        alpha: Factor of the loss.
    """
    p = target_probability(input, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    output.copy_(torch.where(target >= 0, loss * target_weight(target, weight, loss), 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills the gradient of the summed loss in the logits; `buff` (N,) is workspace, the rest as in the forward."""
    p = target_probability(input, target)
    factor = alpha * (-((1 - p) ** gamma) + gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=TINY).log())
    factor = torch.where(target >= 0, factor * target_weight(target, weight, factor), 0)
    buff.copy_(factor)
    grad_input.copy_(factor[:, None] * (one_hot(target, input).to(factor.dtype) - compute_dtype(input)))


def one_hot(target: Tensor, input: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.shape[1], device=target.device)


def target_probability(input: Tensor, target: Tensor) -> Tensor:
    return compute_dtype(input).gather(1, target.clamp(min=0)[:, None])[:, 0]


def target_weight(target: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """Returns the weight (N,) of each target's class; 1 where there is none."""
    if not weight.numel():
        return torch.ones_like(like[:, 0] if like.dim() == 2 else like)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight.to(like.dtype)[target.clamp(0, len(weight) - 1)], 1)
