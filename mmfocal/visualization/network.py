"""A network from a checkpoint, and an image as it takes it."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine import read_config
from mmfocal.errors import CheckpointError, ConfigError, DataError, MissingFileError
from mmfocal.models import FocalTransformer
from mmfocal.weights import load_checkpoint
from mmfocal.weights.architecture import find_backbone_arguments
from mmfocal.weights.backbone import backbone_weights, find_state_dict, load_backbone_weights

# ImageNet's mean and standard deviation, of images in RGB
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SHORT_SIDE = 224  # of an image for a bare backbone: what classifiers are trained with


@dataclass
class Network:
    """A detector, classifier, segmentor or bare backbone in evaluation mode.

    Args:
        model: The detector, classifier or segmentor; None for a bare backbone.
        backbone: The backbone.
        cfg: The config; None for a bare backbone without one.
        device: Where they are.
    """

    model: nn.Module | None
    backbone: nn.Module
    cfg: Config | None
    device: torch.device


@dataclass
class PreparedImage:
    """An image, and what the network gets of it.

    Args:
        pixels: The image in RGB, (H, W, 3), uint8, in its own size; of a classifier, the crop that it gets.
        inputs: (1, C, H', W'), resized, normalised and padded.
        size: Height and width of the image within `inputs`.
        sample: OpenMMLab's data sample; None for a bare backbone without a config.
    """

    pixels: np.ndarray
    inputs: Tensor
    size: tuple[int, int]
    sample: Any


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the checkpoint, the image and what they need."""
    parser.add_argument('checkpoint', help='checkpoint of a detector, classifier, segmentor or backbone')
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--config', help='config: a file, or a name; default: what the checkpoint holds, or its tensors tell'
    )
    parser.add_argument('--device', help='default: cuda if there is a GPU, else cpu')


def open_network(checkpoint: str, config: str | None = None, device: str | None = None) -> Network:
    """Builds the network of a checkpoint and loads its weights.

    A backbone's checkpoint needs no config: the shapes of the weights tell its architecture.

    Args:
        checkpoint: A file or URL.
        config: A file or name; default: the one in the checkpoint.
        device: Default: the GPU if there is one.

    Raises:
        MissingFileError, CheckpointError, ConfigError: If the checkpoint or the config cannot be used.
    """
    content = load_checkpoint(checkpoint)
    if any(name.startswith('backbone.') for name in find_state_dict(content, checkpoint)):
        from mmfocal.inference import load_model

        model, cfg = load_model(checkpoint, config, device)
        return Network(model, model.backbone, cfg, next(model.parameters()).device)
    used = check_device(device)
    cfg = None
    if config:
        cfg = read_config(config)
        init_default_scope(cfg.get('default_scope') or 'mmdet')
        if not cfg.get('model', {}).get('backbone'):
            raise ConfigError(f'{config}: it has no model.backbone; name the config of a detector or segmentor')
        backbone = MODELS.build(dict(cfg.model.backbone, init_cfg=None))
        if not isinstance(backbone, FocalTransformer):
            raise CheckpointError(
                f'{checkpoint}: it holds a backbone alone, and {config} has a {type(backbone).__name__}; '
                'use a checkpoint of a whole detector or segmentor'
            )
    else:
        loaded = backbone_weights(content, checkpoint)
        if loaded.origin == 'swin':
            raise CheckpointError(
                f'{checkpoint}: this is {loaded.kind}, without focal attention; see mmfocal convert swin'
            )
        backbone = FocalTransformer(**find_backbone_arguments(loaded.state_dict))
        print(
            f"{checkpoint}: a backbone; shapes do not tell border='wrap' and use_shift=False, the released settings: "
            'name a --config with others'
        )
    load_backbone_weights(backbone, checkpoint)
    return Network(None, backbone.to(used).eval(), cfg, used)


def is_classifier(model: nn.Module) -> bool:
    """Returns whether a model is MMPretrain's classifier of whole images."""
    return hasattr(model, 'head') and not hasattr(model, 'bbox_head')


def check_device(device: str | None) -> torch.device:
    """Returns a device, the GPU if none is named and there is one.

    Raises:
        ConfigError: If PyTorch cannot use it.
    """
    try:
        return torch.empty(0, device=device or ('cuda' if torch.cuda.is_available() else 'cpu')).device
    except (RuntimeError, AssertionError) as error:  # torch's words differ from build to build
        raise ConfigError(
            f'--device: PyTorch cannot use {device} here ({str(error).splitlines()[0]}); try --device cpu'
        ) from error


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image in RGB, (H, W, 3), uint8, turned as its EXIF data say.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be decoded.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'{path}: no such image; check the path')
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise DataError(f'{path}: OpenCV cannot decode the image; name a complete image file, such as a JPEG or PNG')
    return pixels[..., ::-1].copy()


def prepare_image(network: Network, path: str, pixels: np.ndarray) -> PreparedImage:
    """Runs the test pipeline and the data preprocessor of a network on an image.

    A bare backbone without a config gets it resized to a shorter side of 224 and normalised as classifiers do.

    Args:
        network: The network.
        path: The image file.
        pixels: Its content, from `read_image`.

    Raises:
        ConfigError: If the config has no test pipeline.
    """
    if network.cfg is None:
        height, width = pixels.shape[:2]
        scale = SHORT_SIDE / min(height, width)
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
        inputs = torch.from_numpy(((resized - np.array(MEAN)) / STD).astype(np.float32)).permute(2, 0, 1)[None]
        return PreparedImage(pixels, inputs.to(network.device), size, None)
    from mmcv.transforms import Compose

    cfg = network.cfg
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    pipeline = inner_pipeline(cfg, 'test')
    data = Compose([step for step in pipeline if 'Annotations' not in step['type']])(dict(img_path=path, img_id=0))
    preprocessor = getattr(network.model, 'data_preprocessor', None)
    if preprocessor is None:
        preprocessor = MODELS.build(cfg.model.data_preprocessor).to(network.device)
    if cfg.get('default_scope') == 'mmpretrain':
        pixels = np.ascontiguousarray(data['inputs'].permute(1, 2, 0).numpy()[..., ::-1])
    batch = preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]), False)
    sample = batch['data_samples'][0]
    return PreparedImage(pixels, batch['inputs'], tuple(sample.img_shape[:2]), sample)


def inner_pipeline(cfg: Config, split: str) -> list[dict]:
    """Returns the pipeline of a split's innermost data set.

    Raises:
        ConfigError: If there is none.
    """
    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
    pipeline = next(iterate_inner(dataset), {}).get('pipeline')
    if not pipeline:
        raise ConfigError(f'{split}_dataloader.dataset has no pipeline, which prepares images; name a config that has')
    return pipeline
