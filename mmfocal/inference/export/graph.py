"""What is exported: one module from an image tensor to named output tensors, without anything that depends on data."""

import copy
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.inference.export.dense import DenseDetector, check_dense_head
from mmfocal.inference.export.two_stage import TwoStageDetector, check_two_stage
from mmfocal.models.focal_attention import FocalAttention

PARTS = ('model', 'backbone')


class Graph(nn.Module):
    """A model as it is exported.

    Args:
        core: Takes a normalised image (B, C, H, W) and returns tensors.
        output_names: Names of those.
        preprocessing: Of `read_preprocessing`; if given, the input is an image as OpenCV loads it (BGR, 0–255).
    """

    def __init__(self, core: nn.Module, output_names: tuple[str, ...], preprocessing: dict[str, Any] | None = None):
        super().__init__()
        self.core = core
        self.output_names = output_names
        self.preprocessing = preprocessing
        if preprocessing:
            for name in ('mean', 'std'):
                self.register_buffer(name, torch.tensor(preprocessing[name]).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), float32 → the outputs, in the order of their names."""
        if self.preprocessing:
            image = image.flip(1) if self.preprocessing['to_rgb'] else image
            image = (image - self.mean) / self.std
        return self.core(image)


def build_graph(
    model: nn.Module,
    *,
    part: str = 'model',
    with_nms: bool = False,
    label_map: bool = False,
    preprocessing: dict[str, Any] | None = None,
    half: bool = False,
    backend: str | None = None,
) -> Graph:
    """Builds what is exported of a model, on a copy of it.

    Args:
        model: A detector of MMDetection, a classifier of MMPretrain or a segmentor of MMSegmentation.
        part: 'model', or 'backbone' for its feature maps.
        with_nms: Whether a detector ends with non-maximum suppression.
        label_map: Whether a segmentor ends with the class of each pixel instead of logits.
        preprocessing: Put normalisation into the graph; see `Graph`.
        half: Compute the network in float16; the input, boxes and scores stay float32.
        backend: Backend of focal attention; None for that of the model.

    Raises:
        ConfigError: If the model is of a kind that cannot be exported, or an option is for another kind.
    """
    segmentor, detector = hasattr(model, 'decode_head'), hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')
    kind = type(model).__name__
    if part not in PARTS:
        raise ConfigError(f'--part must be one of {", ".join(PARTS)}, got {part!r}')
    if with_nms and (part == 'backbone' or not detector):
        raise ConfigError(f'--with-nms: {kind if part == "model" else "a backbone"} predicts no boxes; leave it out')
    if label_map and (part == 'backbone' or not segmentor):
        raise ConfigError(f'--label-map: {kind if part == "model" else "a backbone"} predicts no logits; leave it out')
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if backend and isinstance(module, FocalAttention):
            module.backend = backend
    core, names = _core(model, part, with_nms, label_map, half)
    return Graph(core, names, preprocessing).eval()


def _core(
    model: nn.Module, part: str, with_nms: bool, label_map: bool, half: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    dtype = torch.float16 if half else torch.float32
    if part == 'backbone':
        if not hasattr(model, 'backbone'):
            raise ConfigError(f'--part backbone: {type(model).__name__} has no backbone; export the whole model')
        stages = getattr(model.backbone, 'out_indices', range(4))
        return Backbone(model.backbone.to(dtype), dtype), tuple(f'stage{i + 1}' for i in stages)
    if hasattr(model, 'decode_head'):
        check_decode_head(model)
        return Segmentor(model.to(dtype), dtype, label_map), ('label_map' if label_map else 'logits',)
    if hasattr(model, 'roi_head'):
        check_two_stage(model)
        names = ('boxes', 'scores', 'labels') + (('masks',) if model.roi_head.with_mask else ())
        return TwoStageDetector(model, dtype), names
    if hasattr(model, 'bbox_head'):
        check_dense_head(model, with_nms)
        names = ('boxes', 'scores', 'labels') if with_nms else ('boxes', 'scores')
        return DenseDetector(model, dtype, with_nms), names
    if hasattr(model, 'head') and hasattr(model.head, 'num_classes'):
        return Classifier(model.to(dtype), dtype), ('logits',)
    raise ConfigError(f'{type(model).__name__} cannot be exported as a whole; use --part backbone')


class Backbone(nn.Module):
    """Feature maps (B, C, h, w), one per stage."""

    def __init__(self, backbone: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.backbone = backbone
        self.dtype = dtype

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the maps in float32."""
        return tuple(x.float() for x in self.backbone(image.to(self.dtype)))


class Classifier(nn.Module):
    """Logits (B, classes)."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Returns one tensor, in float32."""
        return (self.model(image.to(self.dtype)).float(),)


class Segmentor(nn.Module):
    """Logits (B, classes, H, W) at the size of the input, or the class of each pixel (B, H, W)."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, label_map: bool):
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.label_map = label_map

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Returns one tensor."""
        head = self.model.decode_head
        logits = head(self.model.extract_feat(image.to(self.dtype))).float()
        logits = F.interpolate(logits, size=image.shape[2:], mode='bilinear', align_corners=head.align_corners)
        if not self.label_map:
            return (logits,)
        if head.out_channels == 1:  # one class, whose logit is that of being it
            return ((logits.sigmoid() > head.threshold)[:, 0].long(),)
        return (logits.argmax(1),)


def check_decode_head(model: nn.Module) -> None:
    """Raises ConfigError unless a segmentor's logits are what one decode head returns for the feature maps."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    head = model.decode_head
    same = all(
        getattr(type(head), name, None) is getattr(BaseDecodeHead, name) for name in ('predict', 'predict_by_feat')
    )
    if not same:
        raise ConfigError(f'{type(head).__name__} cannot be exported, it predicts in its own way; use --part backbone')
