"""How well a detector's anchors or points cover the boxes of a data set, by MMDetection's own generators."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator, anchor_inside_flags
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfocal.visualization.network import inner_pipeline


@dataclass
class Coverage:
    """Which boxes an anchor or a point can learn.

    Args:
        kind: 'anchors' or 'points'.
        criterion: What counts as covered.
        covered: For each box.
        best_iou: IoU of each box with its best anchor; empty for points.
    """

    kind: str
    criterion: str
    covered: list[bool] = field(default_factory=list)
    best_iou: list[float] = field(default_factory=list)


class AnchorCoverage:
    """Compares boxes with the anchors or points of a config's one-stage head or RPN.

    Args:
        cfg: The config of a detector.

    Attributes:
        coverage: What was found so far; None if the head has neither anchors nor points.
    """

    def __init__(self, cfg: Config):
        self.coverage: Coverage | None = None
        self.head = _build_head(cfg)
        self.generator = getattr(self.head, 'prior_generator', None)
        self.assigner = getattr(self.head, 'assigner', None)
        if self.generator is None:
            return
        self.divisor = cfg.model.get('data_preprocessor', {}).get('pad_size_divisor', 1)
        self.resize, self.scale = _find_resize(cfg)
        self.sizes: dict[tuple[int, int], tuple[int, int]] = {}
        if not isinstance(self.generator, AnchorGenerator):
            self.coverage = Coverage('points', 'at least one point inside')
        elif hasattr(self.assigner, 'pos_iou_thr'):
            self.coverage = Coverage('anchors', f'IoU of at least {self.assigner.pos_iou_thr:g} with the best anchor')
        elif type(self.assigner).__name__ == 'ATSSAssigner':
            self.coverage = Coverage('anchors', 'ATSS assigns at least one anchor')
        else:
            self.coverage = Coverage('anchors', 'IoU of at least 0.5 with the best anchor')

    def add(self, boxes: np.ndarray, height: int, width: int) -> None:
        """Compares the boxes of an image.

        Args:
            boxes: (n, 4), xyxy in pixels of the image.
            height: Height of the image.
            width: Width of the image.
        """
        if self.coverage is None or not len(boxes):
            return
        new_height, new_width = self.resized(height, width)
        scale = np.array([new_width / width, new_height / height] * 2)
        found = torch.from_numpy((boxes * scale).astype(np.float32))
        padded = tuple(math.ceil(side / self.divisor) * self.divisor for side in (new_height, new_width))
        strides = [stride if isinstance(stride, int) else stride[0] for stride in self.generator.strides]
        sizes = [tuple(math.ceil(side / stride) for side in padded) for stride in strides]
        priors = self.generator.grid_priors(sizes, device='cpu')
        if self.coverage.kind == 'points':
            points = torch.cat(priors)[:, :2]
            inside = (points[:, None] >= found[:, :2]) & (points[:, None] <= found[:, 2:])
            self.coverage.covered += inside.all(-1).any(0).tolist()
            return
        flags = self.generator.valid_flags(sizes, padded, 'cpu')
        border = self.head.train_cfg.get('allowed_border', -1) if self.head.train_cfg else -1
        kept = [anchor_inside_flags(a, f.bool(), (new_height, new_width), border) for a, f in zip(priors, flags)]
        anchors = [a[k] for a, k in zip(priors, kept)]
        self._compare(found, anchors)

    def _compare(self, boxes: Tensor, anchors: list[Tensor]) -> None:
        iou = self.assigner.iou_calculator(boxes, torch.cat(anchors)).amax(1)
        self.coverage.best_iou += iou.tolist()
        if hasattr(self.assigner, 'pos_iou_thr'):
            self.coverage.covered += (iou >= self.assigner.pos_iou_thr).tolist()
        elif type(self.assigner).__name__ == 'ATSSAssigner':
            labels = torch.zeros(len(boxes), dtype=torch.long)
            assigned = self.assigner.assign(
                InstanceData(priors=torch.cat(anchors)),
                [len(level) for level in anchors],
                InstanceData(bboxes=boxes, labels=labels),
            ).gt_inds
            self.coverage.covered += torch.isin(torch.arange(1, len(boxes) + 1), assigned).tolist()
        else:
            self.coverage.covered += (iou >= 0.5).tolist()

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of an image after the config's resizing."""
        if self.resize is None:
            return height, width
        if (height, width) not in self.sizes:
            image = np.zeros((height, width, 1), np.uint8)
            self.sizes[height, width] = self.resize(dict(img=image, img_shape=(height, width)))['img_shape'][:2]
        return self.sizes[height, width]


def _build_head(cfg: Config) -> nn.Module | None:
    """Builds the one-stage head or the RPN of a detector, which are small; None without one."""
    model = cfg.get('model') or {}
    train_cfg, test_cfg = model.get('train_cfg') or {}, model.get('test_cfg') or {}
    for name, train, test in (
        ('rpn_head', train_cfg.get('rpn'), test_cfg.get('rpn')),
        ('bbox_head', train_cfg, test_cfg),
    ):
        if isinstance(model.get(name), dict):
            return MODELS.build(dict(model[name], train_cfg=train, test_cfg=test, init_cfg=None))
    return None


def _find_resize(cfg: Config) -> tuple[object | None, str]:
    """Returns the resizing of the training pipeline, or of the test pipeline if the former is random, and its words."""
    resizes = False
    for split in ('train', 'test'):
        steps = inner_pipeline(cfg, split)
        resizes = resizes or 'Resize' in repr(steps)  # perhaps inside a random choice
        plain = [step for step in steps if step['type'].rpartition('.')[2] == 'Resize']
        if len(plain) == 1 and repr(steps).count('Resize') == 1:
            scale, factor = plain[0].get('scale'), plain[0].get('scale_factor')
            words = f'a factor of {factor:g}' if scale is None else ' × '.join(map(str, np.atleast_1d(scale)))
            return TRANSFORMS.build(plain[0]), f'{words}, as in the {split} pipeline'
        if not resizes:
            return None, 'their own size, as the pipeline does not resize'
    return None, 'their own size, as no pipeline has one fixed Resize'
