"""Checkpoints of untrained networks for the commands that look into them."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfocal.registration  # noqa: F401  registers what configs name
from mmfocal.engine import read_config
from mmfocal.models import FocalTransformer


def save_network(path: Path, name: str, change=None) -> Path:
    """Writes a checkpoint of the model of one of mmfocal's configs, with its config as text.

    Args:
        path: The file.
        name: Of the config.
        change: Changes the model before it is saved.
    """
    cfg = read_config(name)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if change:
        change(model)
    meta = dict(cfg=Config(cfg.to_dict()).pretty_text, dataset_meta=dict(cfg.metainfo) if 'metainfo' in cfg else {})
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


def save_classifier(path: Path, **options) -> Path:
    """Writes a small backbone's weights, as a converted classifier's: without a neck, a head or a config."""
    torch.manual_seed(0)
    arch = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
    torch.save(FocalTransformer(**dict(arch=arch, expand_sizes=(3, 3, 3, 0)) | options).state_dict(), path)
    return path
