"""Checkpoints of untrained models, as training saves them."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401  registers what configs name
from mmfocal.engine import read_config

CLASSES = ('circle', 'square', 'triangle', 'cross')


def save_checkpoint(path: Path, cfg: Config | str, dataset_meta: dict | None = None, text: str | None = None) -> Path:
    """Builds a model with seed 0 and writes it.

    Args:
        path: The file to write.
        cfg: A config or its name.
        dataset_meta: As training saves it. Default: none.
        text: The config's text. Default: that of `cfg`.
    """
    cfg = cfg if isinstance(cfg, Config) else read_config(cfg)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    meta = dict(cfg=cfg.pretty_text if text is None else text)
    if dataset_meta:
        meta['dataset_meta'] = dataset_meta
    torch.save(dict(state_dict=model.state_dict(), meta=meta, optimizer={}), path)
    return path


def panoptic_config() -> Config:
    """A small Panoptic FPN with 2 things and 2 kinds of stuff."""
    cfg = read_config('panoptic_fpn_r50_1x')
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
    cfg.model.rpn_head.update(in_channels=32, feat_channels=32)
    roi, seg = cfg.model.roi_head, cfg.model.semantic_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 32
    roi.bbox_head.update(in_channels=32, fc_out_channels=32, num_classes=2)
    roi.mask_head.update(num_convs=1, in_channels=32, conv_out_channels=32, num_classes=2)
    seg.update(in_channels=32, inner_channels=32, num_things_classes=2, num_stuff_classes=2)
    cfg.model.panoptic_fusion_head.update(num_things_classes=2, num_stuff_classes=2)
    shrink(cfg)
    return cfg


def shrink(cfg: Config, size: int = 64) -> None:
    """Makes the test pipeline resize images to a small size."""
    for step in cfg.test_dataloader.dataset.pipeline:
        if 'scale' in step:
            step.scale = (size, size)


def low_threshold(name: str) -> Config:
    """A detector that keeps low scores, as an untrained model's are."""
    cfg = read_config(name)
    test_cfg = cfg.model.test_cfg if 'bbox_head' in cfg.model else cfg.model.test_cfg.rcnn
    test_cfg.update(score_thr=0.0, max_per_img=7)
    return cfg
