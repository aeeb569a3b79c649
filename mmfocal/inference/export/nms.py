"""Greedy non-maximum suppression with shapes that do not depend on data, for ONNX, `torch.export` and PyTorch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfocal.ops.mmcv_ops.dtypes import as_float32
from mmfocal.ops.mmcv_ops.nms import box_iou, nms


def top_candidates(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest of the scores (B, N) and their positions; fewer than that are filled up with −1.

    `count` ≤ 0 keeps all scores.
    """
    number = scores.shape[1]
    if count <= 0:
        return scores, torch.arange(number, device=scores.device).expand(scores.shape)
    if torch.jit.is_tracing() or number < count:  # a trace may be for maps with fewer
        scores = F.pad(scores, (0, count), value=-1.0)
    best, index = scores.topk(count, 1)
    return best, torch.where(index < number, index, 0)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) and (B, K) → (B, K, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def keep_best(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict[str, Any], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the `count` best boxes after NMS within each label, as MMCV's `batched_nms`.

    Args:
        boxes: (B, N, 4).
        scores: (B, N); those ≤ 0 do not take part.
        labels: (B, N), int64.
        cfg: `iou_threshold`, and `class_agnostic` for NMS across labels.
        count: Boxes to return.

    Returns:
        Boxes (B, count, 4), scores (B, count) and labels (B, count); where fewer remain, 0, 0 and −1.
    """
    apart = boxes
    if not cfg.get('class_agnostic', False):  # labels are moved apart, so that their boxes do not overlap
        apart = boxes + (labels.to(boxes.dtype) * (boxes.amax((1, 2), keepdim=True)[..., 0] + 1))[..., None]
    kept = torch.where(suppress(apart, scores, float(cfg['iou_threshold'])), scores, 0.0)
    best, index = top_candidates(kept, count)
    best = best.clamp(min=0)
    found = best > 0
    return (
        torch.where(found[..., None], gather_rows(boxes, index), 0.0),
        best,
        torch.where(found, labels.gather(1, index), -1),
    )


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Returns which boxes greedy NMS keeps, (B, N) bool; of those with a score > 0.

    Args:
        boxes: (B, N, 4).
        scores: (B, N).
        threshold: A box is dropped if its IoU with a kept box is larger.
    """
    if torch.onnx.is_in_onnx_export():
        return OnnxNms.apply(boxes, scores, threshold)
    if torch.compiler.is_compiling():
        return _suppress_in_graph(boxes, scores, threshold)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        valid = (scores[image] > 0).nonzero()[:, 0]
        keep[image, valid[nms(boxes[image, valid], scores[image, valid], threshold, 0)]] = True
    return keep


def _suppress_in_graph(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Iterates `keep = no kept better box overlaps` to its fixed point, which is the result of the greedy loop."""
    from torch._higher_order_ops.while_loop import while_loop

    order = scores.argsort(dim=1, descending=True, stable=True)
    ordered, valid = gather_rows(boxes, order), scores.gather(1, order) > 0
    overlaps = torch.stack([box_iou(one, one, 0) for one in ordered.unbind(0)]) > as_float32(threshold)
    overlaps = overlaps.triu(1) & valid[:, :, None]

    def update(keep: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return valid & ~(overlaps & keep[:, :, None]).any(1), keep.clone()

    def changed(keep: Tensor, before: Tensor) -> Tensor:
        return (keep != before).any()

    keep, _ = while_loop(changed, update, (valid, torch.zeros_like(valid)))
    return torch.zeros_like(keep).scatter(1, order, keep)


class OnnxNms(torch.autograd.Function):
    """`suppress` as ONNX's operator NonMaxSuppression, only for tracing."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return scores > 0  # while tracing only the shape counts

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, threshold: float) -> Any:
        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op('Constant', value_t=torch.tensor(value, dtype=dtype))

        classwise = g.op('Unsqueeze', scores, constant([1], torch.int64))  # (B, 1, N): one class
        most = constant([2**31 - 1], torch.int64)
        limits = constant([threshold], torch.float32), constant([0.0], torch.float32)
        kept = g.op('NonMaxSuppression', boxes, classwise, most, *limits)  # (kept, 3): image, class, box
        index = g.op('Gather', kept, constant([0, 2], torch.int64), axis_i=1)
        false = g.op('ConstantOfShape', g.op('Shape', scores), value_t=torch.tensor([False]))
        count = g.op('Gather', g.op('Shape', kept), constant([0], torch.int64), axis_i=0)
        true = g.op('ConstantOfShape', count, value_t=torch.tensor([True]))
        return g.op('ScatterND', false, index, true)
