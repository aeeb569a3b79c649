import torch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn


def foreground_weights(
    batch_gt_instances: list[InstanceData], num_classes: int, size: tuple[int, int], stride: int
) -> Tensor:
    """Paints the boxes of each image into one map per class, from large to small, as weights of their cells.

    Args:
        batch_gt_instances: `bboxes` (g, 4), xyxy in pixels, and `labels` (g,).
        num_classes: Number of maps.
        size: Height and width of a map.
        stride: Pixels per cell. A box covers all cells that it touches.

    Returns:
        (B, num_classes, *size), on the boxes' device: 0 for background, and 1 / area, of the smallest box of
            that class there,
        for foreground.
    """
    boxes = batch_gt_instances[0].bboxes
    maps = boxes.new_zeros(len(batch_gt_instances), num_classes, *size)
    with torch.no_grad():
        for image, instances in zip(maps, batch_gt_instances):
            boxes = instances.bboxes
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1)
            order = areas.argsort(descending=True)
            edges = torch.cat([boxes // stride, instances.labels[:, None]], 1).long()[order]
            cells = edges.tolist()  # the only synchronisation with the device
            for (left, top, right, bottom, label), weight in zip(cells, (1 / areas)[order]):
                image[label, max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = weight
    return maps


@MODELS.register_module()
class SEPFocalLoss(nn.Module):
    """Focal loss whose foreground and background are averaged separately, for RepPoints V2's foreground maps.

    Args:
        gamma: Exponent of the modulating factor. Defaults to 2.
        alpha: Weight of foreground, 1 − alpha that of background. Defaults to 0.25.
        loss_weight: Weight of the loss. Defaults to 1.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25, loss_weight: float = 1.0):
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, weight: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            pred: Logits, any shape.
            weight: Of the same shape: positive for foreground, 0 for background.

        Returns:
            Foreground's weighted mean (0 where there is none), plus background's sum over the number of
                foreground cells, or 1.
        """
        foreground = weight > 0
        loss = py_sigmoid_focal_loss(pred, foreground, gamma=self.gamma, alpha=self.alpha, reduction='none')
        total = weight.sum()
        positive = (loss * weight).sum() / torch.where(total > 0, total, 1)
        negative = loss.masked_fill(foreground, 0).sum() / foreground.sum().clamp(min=1)
        return self.loss_weight * (positive + negative)
