"""Non-maximum suppression: greedy, soft, and with the suppressed boxes grouped."""

import torch
from torch import Tensor

from mmfocal.ops.mmcv_ops import torchvision_kernels
from mmfocal.ops.mmcv_ops.dtypes import as_float32, compute_dtype

# Boxes that are decided at once; their IoU with all later boxes should fit a processor's cache.
CHUNK = 128


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Returns the indices of the boxes that greedy suppression keeps, by descending score.

    Args:
        boxes: (N, 4), as (x1, y1, x2, y2).
        scores: (N,).
        iou_threshold: A box is dropped if its IoU with a kept box is larger.
        offset: Added to widths and heights, 0 or 1.
    """
    boxes = compute_dtype(boxes)
    if not len(boxes):
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    # The compiled operator compares with the threshold in float32, so that an IoU of exactly 0.6 is not above 0.6.
    threshold = as_float32(iou_threshold)
    if offset == 0 and torchvision_kernels.run_on(boxes.device.type):
        return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)
    return greedy(boxes, scores.argsort(descending=True, stable=True), threshold, offset)


def greedy(boxes: Tensor, order: Tensor, threshold: float, offset: int) -> Tensor:
    """Returns those of the indices, in order of descending score, whose boxes are kept.

    The next chunk of boxes is decided at once: `keep = no kept earlier box overlaps` is iterated to its fixed point.
    After k iterations the first k boxes are final, so that the result is that of the sequential loop; a few iterations
    do. Boxes that kept ones suppress are dropped before the next chunk.
    """
    kept = []
    while len(order):
        chunk, rest = order[:CHUNK], order[CHUNK:]
        inside = (box_iou(boxes[chunk], boxes[chunk], offset) > threshold).triu_(diagonal=1)
        keep = torch.ones_like(chunk, dtype=torch.bool)
        while True:
            updated = ~(inside & keep[:, None]).any(0)
            if torch.equal(updated, keep):
                break
            keep = updated
        kept.append(chunk[keep])
        if len(rest):
            order = rest[~(box_iou(boxes[kept[-1]], boxes[rest], offset) > threshold).any(0)]
        else:
            order = rest
    return torch.cat(kept)


def box_iou(boxes1: Tensor, boxes2: Tensor, offset: int) -> Tensor:
    """Returns the IoU of all pairs, in the compiled operator's order of operations."""
    x1, y1, x2, y2 = boxes1[:, :, None].unbind(1)
    u1, v1, u2, v2 = boxes2.unbind(1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1) + offset).clamp_(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1) + offset).clamp_(min=0)
    inter = width * height
    area1 = (x2 - x1 + offset) * (y2 - y1 + offset)
    area2 = (u2 - u1 + offset) * (v2 - v1 + offset)
    return inter / (area1 + area2 - inter)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lowers the scores of overlapping boxes instead of dropping them; returns the indices of those that remain.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), filled with the remaining boxes and their scores.
        iou_threshold: From which a score is lowered (methods 0 and 1).
        sigma: Of method 2.
        min_score: Boxes whose score falls below it are dropped.
        method: 0: scores become 0; 1: they are multiplied by 1 - IoU; 2: by exp(-IoU^2 / sigma).
        offset: Added to widths and heights, 0 or 1.
    """
    threshold, min_score, sigma = as_float32(iou_threshold), as_float32(min_score), as_float32(sigma)
    boxes, scores = compute_dtype(boxes), compute_dtype(scores).clone()
    remaining = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    while len(remaining):
        # The best box changes places with the first one: ties are then broken as in the compiled operator.
        best = scores[remaining].argmax()
        index = remaining[best].clone()
        remaining[best] = remaining[0]
        remaining = remaining[1:]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[index], scores[index]
        kept.append(index)
        iou = box_iou(boxes[index][None], boxes[remaining], offset)[0]
        if method == 2:
            weight = torch.exp(-(iou * iou) / sigma)
        else:
            weight = torch.where(iou >= threshold, 1 - iou if method == 1 else 0.0, 1.0)
        scores[remaining] *= weight.to(scores.dtype)
        remaining = drop(remaining, scores[remaining] < min_score)
    return torch.stack(kept) if kept else remaining


def drop(indices: Tensor, dropped: Tensor) -> Tensor:
    """Returns the indices that stay; the last of them fill the gaps, as in the compiled operator's array."""
    count = len(indices) - int(dropped.sum())
    result = indices[:count].clone()
    result[dropped[:count]] = indices[count:][~dropped[count:]].flip(0)
    return result


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Returns a group for each kept box: its index, and those of the boxes that it suppresses, by descending score.

    Args:
        dets: (N, 5), boxes and scores.
        iou_threshold: A box is suppressed if its IoU with a kept box is at least that.
    """
    dets = compute_dtype(dets)
    threshold = as_float32(iou_threshold)
    remaining = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(remaining):
        matched = box_iou(dets[remaining[:1], :4], dets[remaining, :4], 0)[0] >= threshold
        matched[0] = True
        groups.append(remaining[matched].tolist())
        remaining = remaining[~matched]
    return groups
