"""Fits the convolutions between stages to Swin's merging of patches, on the maps that Swin has of some images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

HELD_OUT = 5  # every fifth patch measures the error and is not fitted


@dataclass(frozen=True)
class Patches:
    """What goes into the downsampling of one stage, and what comes out.

    Args:
        inputs: 2×2 tokens each, (N, 2, 2, C).
        outputs: Their merged tokens, (N, 1, 1, 2C).
    """

    inputs: Tensor
    outputs: Tensor

    def part(self, index: Tensor | slice) -> 'Patches':
        return Patches(self.inputs[index], self.outputs[index])

    def split(self) -> tuple['Patches', 'Patches']:
        """Returns the patches to fit and those to measure with."""
        held_out = torch.arange(len(self.inputs)) % HELD_OUT == 0
        return Patches(self.inputs[~held_out], self.outputs[~held_out]), self.part(held_out)


@dataclass(frozen=True)
class FitErrors:
    """Relative errors of a stage's downsampling against Swin's, on patches that were not fitted.

    Args:
        closed_form: Of `approximate_merging`.
        least_squares: With gains and biases by least squares.
        distilled: After distillation.
    """

    closed_form: float
    least_squares: float
    distilled: float


def collect_patches(swin: Any, images: Iterable[Tensor], per_image: int = 64, seed: int = 0) -> list[Patches]:
    """Runs a Swin Transformer and keeps random patches of the maps before its three downsamplings.

    Args:
        swin: A `FocalTransformer(downsample='merge')` that computes Swin's function.
        images: Batches (B, 3, H, W), normalised as for training.
        per_image: Patches to keep of each image and stage.
        seed: Of their choice.

    Returns:
        One per downsampling.
    """
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(3)]

    def keep(stage: int):
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            rows, cols = (side // 2 for side in args[0].shape[1:3])  # only whole patches
            tokens = args[0][:, : 2 * rows, : 2 * cols].unflatten(2, (cols, 2)).unflatten(1, (rows, 2))
            tokens = tokens.transpose(2, 3).flatten(1, 2)  # (B, patches, 2, 2, C)
            merged = output[:, :rows, :cols].flatten(1, 2)
            for image in range(len(tokens)):
                chosen = torch.randperm(rows * cols, generator=generator)[:per_image]
                kept[stage][0].append(tokens[image, chosen])
                kept[stage][1].append(merged[image, chosen])

        return hook

    hooks = [swin.stages[stage].downsample.register_forward_hook(keep(stage)) for stage in range(3)]
    try:
        with torch.no_grad():
            for batch in images:
                swin(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return [Patches(torch.cat(inputs), torch.cat(outputs)[:, None, None]) for inputs, outputs in kept]


def fit_downsamplings(
    backbone: Any, patches: Sequence[Patches], steps: int = 500, batch_size: int = 1024, lr: float = 2e-3
) -> list[FitErrors]:
    """Fits a backbone's three downsamplings, which start from `approximate_merging`.

    Gains and biases of the norms by least squares, then everything by Adam on the squared error.

    Args:
        backbone: A `FocalTransformer(downsample='conv')`; changed in place.
        patches: As of `collect_patches`.
        steps: Steps of distillation per stage; 0 for least squares alone.
        batch_size: Patches per step.
        lr: Learning rate, relative to the root mean square of the convolution's weights; it falls to 0 as a cosine.
    """
    errors = []
    for stage, stage_patches in enumerate(patches):
        module = backbone.stages[stage].downsample
        fitted, held_out = stage_patches.split()
        closed_form = relative_error(module, held_out)
        fit_norm(module, fitted)
        least_squares = relative_error(module, held_out)
        if steps:
            _distill(module, fitted, steps, batch_size, lr)
        errors.append(FitErrors(closed_form, least_squares, relative_error(module, held_out)))
    return errors


def relative_error(module: Any, patches: Patches) -> float:
    """Returns ‖output − Swin's‖ / ‖Swin's‖ of a downsampling."""
    with torch.no_grad():
        difference = module(patches.inputs) - patches.outputs
    return (difference.norm() / patches.outputs.norm()).item()


def fit_norm(module: Any, patches: Patches) -> None:
    """Sets gain and bias of a downsampling's norm, per channel, by least squares."""
    norm = module.norm
    with torch.no_grad():
        norm.weight.fill_(1)
        norm.bias.zero_()
        x, y = module(patches.inputs).flatten(0, 2), patches.outputs.flatten(0, 2)
        x_mean, y_mean = x.mean(0), y.mean(0)
        gain = ((x - x_mean) * (y - y_mean)).sum(0) / (x - x_mean).square().sum(0).clamp(min=1e-12)
        norm.weight.copy_(gain)
        norm.bias.copy_(y_mean - gain * x_mean)


def _distill(module: Any, patches: Patches, steps: int, batch_size: int, lr: float) -> None:
    params = [module.proj.weight, module.proj.bias, module.norm.weight, module.norm.bias]
    scale = module.proj.weight.detach().square().mean().sqrt().item()
    # the output does not depend on the weights' scale, so neither should a step
    groups = [dict(params=params[:2], lr=lr * scale), dict(params=params[2:], lr=lr)]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    power = patches.outputs.square().mean()
    with torch.enable_grad():
        for _ in range(steps):
            batch = patches.part(torch.randint(len(patches.inputs), (batch_size,), generator=generator))
            loss = (module(batch.inputs) - batch.outputs).square().mean() / power
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for param in params:
        param.grad = None
