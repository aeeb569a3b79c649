"""Differences of an exported model's outputs from PyTorch's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.errors import SavingError

# Largest difference over the largest value; share of pixels or of detections that differ.
LIMITS = {
    False: dict(relative=1e-4, pixels=1e-3, detections=0.01),
    True: dict(relative=3e-2, pixels=0.03, detections=0.1),
}


def make_image(shape: tuple[int, ...], seed: int, raw: bool) -> Tensor:
    """Returns random images, coarse structures with noise; normalised, or if `raw` with values from 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    coarse = torch.randn(batch, channels, max(1, height // 16), max(1, width // 16), generator=generator)
    image = F.interpolate(coarse, (height, width), mode='bilinear') + 0.2 * torch.randn(shape, generator=generator)
    return (image * 60 + 120).clamp(0, 255).round() if raw else image


def compare(
    names: tuple[str, ...], outputs: list[Tensor], expected: tuple[Tensor, ...], half: bool
) -> dict[str, tuple[float, float]]:
    """Compares outputs.

    Args:
        names: Of the outputs.
        outputs: Of the exported model.
        expected: Of PyTorch.
        half: Whether the exported model computes in float16.

    Returns:
        Of each output its difference, and the largest that is allowed.

    Raises:
        SavingError: If shapes or types differ.
    """
    limits, compared = LIMITS[half], {}
    for name, output, wanted in zip(names, outputs, expected, strict=True):
        if output.shape != wanted.shape or output.is_floating_point() != wanted.is_floating_point():
            raise SavingError(
                f'export: {name} is {tuple(output.shape)} in the exported model and {tuple(wanted.shape)} in PyTorch; '
                'nothing was written'
            )
    if 'labels' in names:
        found, wanted = (dict(zip(names, one)) for one in (outputs, expected))
        return {'detections': (unmatched(found, wanted, limits['relative']), limits['detections'])}
    for name, output, wanted in zip(names, outputs, expected):
        if wanted.is_floating_point():
            difference = (output.double() - wanted.double()).abs().max() / wanted.abs().max().clamp(min=1e-12)
            compared[name] = (float(difference.nan_to_num(torch.inf)), limits['relative'])
        else:
            compared[name] = (float((output != wanted).double().mean()), limits['pixels'])
    return compared


def unmatched(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> float:
    """Returns the share of detections on either side that have no counterpart on the other.

    Args:
        found: boxes (B, N, 4), scores (B, N), labels (B, N), −1 for none, and maybe masks (B, N, h, w).
        wanted: Likewise.
        tolerance: Of scores, of masks, and of boxes against the largest coordinate.
    """
    scale = float(wanted['boxes'].abs().max().clamp(min=1))
    total = missing = 0
    for image in range(len(wanted['labels'])):
        one, other = ({key: value[image] for key, value in side.items()} for side in (found, wanted))
        one, other = ({key: value[side['labels'] >= 0] for key, value in side.items()} for side in (one, other))
        same = one['labels'][:, None] == other['labels']
        same &= (one['scores'][:, None] - other['scores']).abs() <= tolerance
        same &= (one['boxes'][:, None] - other['boxes']).abs().amax(-1) <= tolerance * scale
        if 'masks' in one:
            same &= (one['masks'][:, None] - other['masks']).abs().flatten(2).mean(-1) <= tolerance
        total += sum(same.shape)
        missing += int((~same.any(0)).sum() + (~same.any(1)).sum())
    return missing / max(total, 1)


def count_detections(names: tuple[str, ...], outputs: list[Tensor]) -> int | None:
    """Returns how many detections the outputs hold, or None if they are of another kind."""
    return int((outputs[names.index('labels')] >= 0).sum()) if 'labels' in names else None
