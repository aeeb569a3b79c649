"""Faster R-CNN, Mask R-CNN and Cascade R-CNN with a fixed number of proposals, some of which are empty."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.inference.export.dense import check_nms, clip, decode_levels, drop_small
from mmfocal.inference.export.nms import gather_rows, keep_best, top_candidates


class TwoStageDetector(nn.Module):
    """The best boxes of a detector with a region proposal network, and their masks if it has a mask head.

    Args:
        model: The detector.
        dtype: Of backbone, neck and RPN; what follows is in float32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model = model
        for part in (model.backbone, model.neck, model.rpn_head):
            part.to(dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes (B, K, 4), x1 y1 x2 y2 in pixels of the input, scores (B, K), labels (B, K), and of a mask head
        masks (B, K, h, w), probabilities within the boxes; K is `max_per_img`. Rows without a detection have score 0
        and label −1."""
        model, height, width = self.model, *image.shape[2:]
        feats = model.extract_feat(image.to(self.dtype))
        proposals, objectness = self._propose(model.rpn_head(feats), height, width)
        feats = [x.float() for x in feats]
        heads, extractors = model.roi_head.bbox_head, model.roi_head.bbox_roi_extractor
        cascade = isinstance(heads, nn.ModuleList)
        stages = list(zip(extractors, heads)) if cascade else [(extractors, heads)]
        batch, count = objectness.shape
        total: Any = 0
        for stage, (extractor, head) in enumerate(stages):
            logits, deltas = head(extract(extractor, feats, proposals))
            total = total + logits
            if stage < len(stages) - 1:
                best = logits[:, :-1].argmax(1, keepdim=True)
                boxes = _decode(head, proposals, deltas, height, width).reshape(batch * count, -1, 4)
                if not head.reg_class_agnostic:
                    boxes = gather_rows(boxes, best)
                proposals = boxes.reshape(batch, count, 4)
        scores = (total / len(stages)).softmax(-1)[:, :-1].reshape(batch, count, -1)
        return self._best(feats, _decode(head, proposals, deltas, height, width), scores, objectness > 0)

    def _propose(self, outputs: tuple[list[Tensor], ...], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns boxes (B, K, 4) and scores (B, K) of the RPN; those that are missing have score 0."""
        head = self.model.rpn_head
        cfg, parts = head.test_cfg, []
        for level, (boxes, scores, _) in enumerate(decode_levels(head, outputs, height, width)):
            best, index = top_candidates(scores[..., 0], cfg.get('nms_pre', -1))
            parts.append((gather_rows(boxes, index), best, torch.full_like(index, level)))
        boxes, scores, levels = (torch.cat(one, 1) for one in zip(*parts))
        scores = drop_small(boxes, scores, cfg.get('min_bbox_size', -1))
        boxes, scores, _ = keep_best(boxes, scores, levels, cfg.nms, cfg.max_per_img)
        return boxes, scores

    def _best(self, feats: list[Tensor], boxes: Tensor, scores: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        cfg, roi_head = self.model.roi_head.test_cfg, self.model.roi_head
        batch, count, classes = scores.shape
        scores = torch.where(valid[..., None] & (scores > cfg.score_thr), scores, -1.0)
        boxes = boxes.reshape(batch, count, -1, 4).expand(-1, -1, classes, -1).reshape(batch, -1, 4)
        labels = torch.arange(classes, device=scores.device).expand(scores.shape).flatten(1)
        boxes, best, labels = keep_best(boxes, scores.flatten(1), labels, cfg.nms, cfg.max_per_img)
        if not roi_head.with_mask:
            return boxes, best, labels
        heads, extractors = roi_head.mask_head, roi_head.mask_roi_extractor
        pairs = zip(extractors, heads) if isinstance(heads, nn.ModuleList) else [(extractors, heads)]
        masks = [head(extract(extractor, feats, boxes)).sigmoid() for extractor, head in pairs]
        mask = torch.stack(masks).mean(0)  # (B·K, classes, h, w)
        if mask.shape[1] > 1:
            index = labels.clamp(min=0).flatten()[:, None, None, None].expand(-1, 1, *mask.shape[2:])
            mask = mask.gather(1, index)
        mask = mask.reshape(batch, -1, *mask.shape[2:])
        return boxes, best, labels, torch.where((labels >= 0)[..., None, None], mask, 0.0)


def _decode(head: nn.Module, proposals: Tensor, deltas: Tensor, height: int, width: int) -> Tensor:
    """Returns the boxes (B, K, classes or 1, 4) of a box head's output (B·K, 4·classes or 4)."""
    batch, count, _ = proposals.shape
    classes = 1 if head.reg_class_agnostic else head.num_classes
    priors = proposals[:, :, None].expand(-1, -1, classes, -1).reshape(-1, 4)
    boxes = head.bbox_coder.decode(priors, deltas.reshape(-1, 4)).reshape(batch, count, classes, 4)
    return clip(boxes, height, width) if head.bbox_coder.clip_border else boxes


def extract(extractor: nn.Module, feats: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Returns the features (B·K, C, h, w) of boxes (B, K, 4), as the RoI extractor does."""
    batch, count, _ = boxes.shape
    image = torch.arange(batch, device=boxes.device)[:, None].expand(batch, count).reshape(-1)
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes.reshape(-1, 4)], 1)
    feats = feats[: extractor.num_inputs]
    if not torch.onnx.is_in_onnx_export():
        return extractor(feats, rois)
    levels, pooled = extractor.map_roi_levels(rois, len(feats)), []
    for level, (layer, x) in enumerate(zip(extractor.roi_layers, feats)):
        here = (levels == level)[:, None]
        # boxes of other levels are empty: large ones would cost much on a fine level
        features = OnnxRoIAlign.apply(x, torch.where(here, rois[:, 1:], 0.0), image, layer)
        pooled.append(torch.where(here[..., None, None], features, 0.0))
    return sum(pooled[1:], pooled[0])


class OnnxRoIAlign(torch.autograd.Function):
    """A `RoIAlign` layer of MMCV as ONNX's operator RoiAlign, only for tracing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, boxes: Tensor, image: Tensor, layer: nn.Module) -> Tensor:
        return x.new_zeros(len(boxes), x.shape[1], *layer.output_size)  # while tracing only the shape counts

    @staticmethod
    def symbolic(g: Any, x: Any, boxes: Any, image: Any, layer: nn.Module) -> Any:
        return g.op(
            'RoiAlign',
            x,
            boxes,
            image,
            coordinate_transformation_mode_s='half_pixel' if layer.aligned else 'output_half_pixel',
            mode_s=layer.pool_mode,
            output_height_i=layer.output_size[0],
            output_width_i=layer.output_size[1],
            sampling_ratio_i=layer.sampling_ratio,
            spatial_scale_f=layer.spatial_scale,
        )


def check_two_stage(model: nn.Module) -> None:
    """Raises ConfigError unless the model proposes, classifies and decodes as Mask R-CNN or Cascade R-CNN do."""
    from mmdet.models.dense_heads import RPNHead
    from mmdet.models.roi_heads import CascadeRoIHead, SingleRoIExtractor, StandardRoIHead

    roi_head = model.roi_head
    known = type(model.rpn_head) is RPNHead and type(roi_head) in (StandardRoIHead, CascadeRoIHead)
    if not known or getattr(model, 'semantic_head', None) is not None:
        raise ConfigError(f'{type(model).__name__} cannot be exported, it predicts in its own way; use --part backbone')
    heads = roi_head.bbox_head if isinstance(roi_head.bbox_head, nn.ModuleList) else [roi_head.bbox_head]
    extractors = [module for module in roi_head.modules() if hasattr(module, 'roi_layers')]
    layers = [layer for extractor in extractors for layer in extractor.roi_layers]
    if (
        any(type(extractor) is not SingleRoIExtractor for extractor in extractors)
        or any(type(layer).__name__ != 'RoIAlign' for layer in layers)
        or any(head.custom_cls_channels or not head.with_reg or not head.with_cls for head in heads)
        or roi_head.with_shared_head
    ):
        raise ConfigError(f'{type(model).__name__}: its RoI head has parts that ONNX lacks; use --part backbone')
    for cfg in (model.rpn_head.test_cfg, roi_head.test_cfg):
        check_nms(cfg)
