"""Tiny models for the tests of export: nano configs with one block per stage and few channels."""

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmfocal.engine.command_line import read_config

ARCH = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2))
CHANNELS = [16, 32, 64, 128]


def build(name: str, **backbone) -> tuple[nn.Module, Config]:
    """Returns a model with random weights that detects something in random images, and its config."""
    cfg = read_config(name)
    cfg.model.backbone.update(arch=ARCH, **backbone)
    for name in ('neck',) if cfg.model.get('neck') else ('decode_head', 'auxiliary_head'):
        part = cfg.model.get(name) or {}
        channels = part.get('in_channels')
        if isinstance(channels, list):
            part.in_channels = CHANNELS[-len(channels) :]
        elif channels:
            part.in_channels = CHANNELS[part.in_index]
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(('retina_cls.bias', 'atss_cls.bias')):
            nn.init.constant_(parameter, -1.0)
        elif parameter_name.endswith(
            ('fc_cls.weight', 'fc_reg.weight', 'retina_cls.weight', 'retina_reg.weight', 'atss_cls.weight')
        ):
            nn.init.normal_(parameter, std=0.1)
    model.dataset_meta = dict(classes=('circle', 'square', 'triangle', 'star', 'cross')[: cfg.get('num_classes', 3)])
    return model, cfg


def predict(model: nn.Module, image: Tensor) -> list[dict[str, Tensor]]:
    """Returns what MMDetection's own `predict` finds in each image."""
    shape = tuple(image.shape[2:])
    samples = [
        DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0)))
        for _ in image
    ]
    with torch.no_grad():
        found = [sample.pred_instances for sample in model.predict(image, samples, rescale=False)]
    return [dict(boxes=one.bboxes, scores=one.scores, labels=one.labels) for one in found]
