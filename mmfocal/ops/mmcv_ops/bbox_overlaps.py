"""IoU of boxes."""

import torch
from torch import Tensor


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Fills the IoU of boxes.

    Args:
        bboxes1: (M, 4).
        bboxes2: (N, 4).
        ious: (M, N); (M,) if aligned.
        mode: 0 for the intersection over the union, 1 over the first box.
        aligned: Whether boxes are compared in pairs.
        offset: Added to widths and heights, 0 or 1.
    """
    first = bboxes1 if aligned else bboxes1[:, None]
    extent = torch.minimum(first[..., 2:], bboxes2[..., 2:]) - torch.maximum(first[..., :2], bboxes2[..., :2])
    inter = (extent + offset).clamp(min=0).prod(-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(-1) for boxes in (first, bboxes2))
    ious.copy_(inter / (area1 + area2 - inter if mode == 0 else area1))
