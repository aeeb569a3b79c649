"""Counts RepPoints V2's detectors with the head of its mask variant, Dense RepPoints V2, beside the paper's Table 5.

The layers are those that the authors' config `dense_reppoints_v2_r50_fpn_*` names: 729 points, 9 of them for the
classes, 121 groups of mask scores. Sampling at points is left out, like that of deformable convolutions; it has no
parameters and multiplies no weights. This head is for counting only: it has no losses.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

import mmfocal.registration  # noqa: F401
from mmfocal.benchmark.complexity import Complexity, count
from mmfocal.benchmark.paper.tables import row_of
from mmfocal.engine import read_config
from mmfocal.text import format_table

CONFIGS = [f'reppointsv2_{backbone}_3x' for backbone in ('r50', 'swin_tiny', 'focal_tiny')]
CHANNELS, POINTS, CLASS_POINTS, SCORE_GROUPS, CLASSES = 256, 729, 9, 121, 80
CONTOUR = 3  # a score and an offset of the contour, seen by classes and refined points


class DenseHead(nn.Module):
    """Layers of Dense RepPoints V2's head, in the order in which they run."""

    def __init__(self):
        super().__init__()
        self.classes = tower(3)
        self.boxes = tower(3)
        self.shared = tower(1)
        self.masks = tower(7)
        self.foreground = nn.Conv2d(CHANNELS, CLASSES, 1)
        self.embedding = ConvModule(CHANNELS, CHANNELS, 1, norm_cfg=dict(type='GN', num_groups=32))
        self.contour = nn.Conv2d(CHANNELS, CONTOUR, 3, padding=1)
        self.initial_points = output(CHANNELS, 2 * POINTS)
        self.refined_points = output(CHANNELS + CONTOUR, 2 * POINTS)
        self.class_logits = output(CLASS_POINTS * (CHANNELS + CONTOUR), CLASSES, 1)
        self.fuse = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.mask_scores = output(CHANNELS, SCORE_GROUPS)

    def forward(self, feats: tuple[Tensor, ...]) -> list[Tensor]:
        """Runs all layers on the maps of the levels; masks run at the size of the finest level."""
        outs = []
        for x in feats:
            box = self.boxes(x)
            shared = self.shared(box)
            embedding = self.embedding(shared)
            contour = self.contour(shared + embedding)
            classes = torch.cat([self.classes(x) + embedding, contour], 1)
            outs += [self.foreground(shared), self.initial_points(box + embedding)]
            outs.append(self.refined_points(torch.cat([box + embedding, contour], 1)))
            outs.append(self.class_logits(classes.repeat(1, CLASS_POINTS, 1, 1)))
            mask = F.interpolate(self.masks(x) + embedding, feats[0].shape[2:], mode='nearest')
            outs.append(self.mask_scores(self.fuse(mask)))
        return outs


def tower(layers: int) -> nn.Sequential:
    """Returns 3×3 convolutions with GroupNorm and ReLU."""
    norm = dict(type='GN', num_groups=32)
    return nn.Sequential(*(ConvModule(CHANNELS, CHANNELS, 3, padding=1, norm_cfg=norm) for _ in range(layers)))


def output(channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    """Returns a convolution to 256 channels, ReLU and a 1×1 convolution."""
    conv = nn.Conv2d(channels, CHANNELS, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.ReLU(), nn.Conv2d(CHANNELS, out_channels, 1))


def count_with(config: str, head: nn.Module | None) -> Complexity:
    """Counts a config's detector, with another head if one is given."""
    cfg = read_config(Path(__file__).parents[1] / f'configs/{config}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    if head is not None:
        model.bbox_head = head
    return count(model)


def main() -> None:
    """Prints the counts of the box head, of the mask variant, and the paper's."""
    rows = [['config', 'parameters, M', 'mask variant', 'paper', 'GFLOPs', 'mask variant', 'paper']]
    for config in CONFIGS:
        box, mask, paper = count_with(config, None), count_with(config, DenseHead()), row_of(config) or {}
        figures = [f'{c.params[""] / 1e6:.2f}' for c in (box, mask)] + [f'{paper["params_m"]:g}']
        rows.append([config, *figures, *(f'{c.flops[""] / 1e9:.1f}' for c in (box, mask)), f'{paper["flops_g"]:g}'])
    print(format_table(rows))


if __name__ == '__main__':
    main()
