"""One-stage detectors whose heads predict as MMDetection's `BaseDenseHead`: RetinaNet, ATSS, FCOS and others."""

import torch
import torch.nn as nn
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.inference.export.nms import gather_rows, keep_best, top_candidates


class DenseDetector(nn.Module):
    """Decoded boxes and scores of all priors, or what remains of them after non-maximum suppression.

    Args:
        model: The detector.
        dtype: Of the network; decoding is in float32.
        with_nms: Whether NMS follows, with the numbers of the model's `test_cfg`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, with_nms: bool):
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype
        self.with_nms = with_nms

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes (B, N, 4), x1 y1 x2 y2 in pixels of the input, and scores (B, N, classes); with NMS boxes
        (B, max_per_img, 4), scores (B, max_per_img), 0 where there are fewer, and labels, −1 there."""
        head = self.model.bbox_head
        height, width = image.shape[2:]
        outputs = head(self.model.extract_feat(image.to(self.dtype)))
        levels = decode_levels(head, outputs, height, width)
        if not self.with_nms:
            scores = [scores if factor is None else scores * factor for _, scores, factor in levels]
            return torch.cat([boxes for boxes, *_ in levels], 1), torch.cat(scores, 1)
        cfg = head.test_cfg
        parts = []
        for boxes, scores, factor in levels:
            classes = scores.shape[2]
            flat = torch.where(scores > cfg.get('score_thr', 0), scores, -1.0).flatten(1)
            best, index = top_candidates(flat, cfg.get('nms_pre', -1))
            row = torch.div(index, classes, rounding_mode='floor')
            if factor is not None:
                best = torch.where(best > 0, best * gather_rows(factor, row)[..., 0], best)
            parts.append((gather_rows(boxes, row), best, index % classes))
        boxes, best, labels = (torch.cat(one, 1) for one in zip(*parts))
        best = drop_small(boxes, best, cfg.get('min_bbox_size', -1))
        return keep_best(boxes, best, labels, cfg.nms, cfg.max_per_img)


def decode_levels(
    head: nn.Module, outputs: tuple[list[Tensor], ...], height: int, width: int
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Returns the boxes (B, N, 4), scores (B, N, classes) and score factors (B, N, 1) or None of each level.

    Args:
        head: A dense head.
        outputs: Of its `forward`: classification, regression and, of some heads, a factor of the scores.
        height: Of the image, where boxes end.
        width: Likewise.
    """
    cls_scores, bbox_preds = outputs[:2]
    factors = outputs[2] if len(outputs) > 2 else [None] * len(cls_scores)
    sizes = [x.shape[-2:] for x in cls_scores]
    priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=cls_scores[0].device)
    coder, levels = head.bbox_coder, []
    for cls_score, bbox_pred, factor, prior in zip(cls_scores, bbox_preds, factors, priors):
        batch = cls_score.shape[0]
        scores = _rows(cls_score, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        deltas = _rows(bbox_pred, coder.encode_size)
        prior = prior[None].expand(batch, *prior.shape).flatten(0, 1)
        boxes = coder.decode(prior, deltas.flatten(0, 1)).reshape(batch, -1, 4)
        if getattr(coder, 'clip_border', True):
            boxes = clip(boxes, height, width)
        levels.append((boxes, scores, None if factor is None else _rows(factor, 1).sigmoid()))
    return levels


def drop_small(boxes: Tensor, scores: Tensor, size: float) -> Tensor:
    """Returns the scores (B, N) of boxes (B, N, 4), −1 unless both sides are longer than `size` ≥ 0."""
    if size < 0:
        return scores
    return torch.where((boxes[..., 2:] - boxes[..., :2] > size).all(-1), scores, -1.0)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Returns boxes (…, 4) cut off at the image's border."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def check_dense_head(model: nn.Module, with_nms: bool) -> None:
    """Raises ConfigError unless the head predicts as `BaseDenseHead` does, by decoding priors and greedy NMS."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    head = model.bbox_head
    methods = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    same = all(getattr(type(head), name, None) is getattr(BaseDenseHead, name) for name in methods)
    if not same or getattr(head.loss_cls, 'custom_cls_channels', False):
        raise ConfigError(f'{type(head).__name__} cannot be exported, it predicts in its own way; use --part backbone')
    if with_nms:
        check_nms(head.test_cfg)


def check_nms(cfg: dict) -> None:
    """Raises ConfigError unless a `test_cfg` asks for greedy NMS, the one of ONNX."""
    kind = (cfg.get('nms') or {}).get('type', 'none')
    if kind != 'nms':
        raise ConfigError(f"--with-nms: test_cfg.nms has type {kind!r}, ONNX has only 'nms'; leave --with-nms out")


def _rows(x: Tensor, columns: int) -> Tensor:
    """(B, A·columns, h, w) → (B, h·w·A, columns), in float32."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns).float()
