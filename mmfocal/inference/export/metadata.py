"""What stands in an exported file beside its graph, as texts."""

import json
from typing import Any

from mmengine.config import Config
from torch import nn

from mmfocal.errors import ConfigError

DIVISOR = 32


def read_preprocessing(model: nn.Module, cfg: Config) -> dict[str, Any]:
    """Returns how images are prepared for a model: what its data preprocessor and its test pipeline say.

    Returns:
        `mean`, `std` (after the swap of channels), `to_rgb`, `pad_size_divisor`, `pad_value`, and `resize`: the
        pipeline's `scale` (width, height) and `keep_ratio`; without a setting, the key is missing.
    """
    preprocessor = model.data_preprocessor
    channels = getattr(getattr(model, 'backbone', None), 'in_channels', 3)
    swaps = getattr(preprocessor, '_swaps', None) or getattr(preprocessor, 'to_rgb', None)
    swaps = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', False)) or swaps
    found: dict[str, Any] = dict(mean=[0.0] * channels, std=[1.0] * channels, to_rgb=bool(swaps))
    for name in ('mean', 'std'):
        value = getattr(preprocessor, name, None)
        if value is not None:
            values = value.flatten().tolist()
            found[name] = values * channels if len(values) == 1 else values
    for name in ('pad_size_divisor', 'size_divisor', 'pad_value', 'pad_val'):
        value = getattr(preprocessor, name, None)
        if isinstance(value, (int, float)):
            found[{'size_divisor': 'pad_size_divisor', 'pad_val': 'pad_value'}.get(name, name)] = value
    resize = find_resize(cfg)
    if resize:
        found['resize'] = dict(scale=list(resize['scale']), keep_ratio=bool(resize.get('keep_ratio', False)))
    return found


def find_resize(cfg: Config) -> dict[str, Any] | None:
    """Returns the test pipeline's `Resize`, or None."""
    return next(
        (
            step
            for step in _test_pipeline(cfg)
            if str(step.get('type')).endswith('Resize') and isinstance(step.get('scale'), (tuple, list))
        ),
        None,
    )


def find_crop(cfg: Config) -> int | None:
    """Returns the side of the test pipeline's `CenterCrop`, as classifiers have it, or None."""
    sizes = [step.get('crop_size') for step in _test_pipeline(cfg) if str(step.get('type')).endswith('CenterCrop')]
    return sizes[0] if sizes and isinstance(sizes[0], int) else None


def _test_pipeline(cfg: Config) -> list[dict]:
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline') or cfg.get('test_pipeline') or []


def default_size(model: nn.Module, cfg: Config) -> tuple[int, int]:
    """Returns height and width to export for: a segmentor's or a classifier's crop, else the test pipeline's scale,
    rounded up to whole strides.

    Raises:
        ConfigError: If the config says neither.
    """
    test_cfg = getattr(model, 'test_cfg', None) or {}
    crop = test_cfg.get('crop_size') or getattr(model.data_preprocessor, 'size', None)
    if hasattr(model, 'decode_head') and crop:
        height, width = crop
    elif crop := find_crop(cfg):
        height = width = crop
    else:
        resize = find_resize(cfg)
        if resize is None:
            raise ConfigError('export: the config has no size of test images; pass --size HEIGHT WIDTH')
        width, height = resize['scale']
        if resize.get('keep_ratio', False):  # most pictures are wider than high
            width, height = max(width, height), min(width, height)
    return tuple(-(-side // DIVISOR) * DIVISOR for side in (height, width))


def make_metadata(**values: Any) -> dict[str, str]:
    """Returns values as texts: JSON unless they are texts already, `mmfocal.` before each name."""
    return {f'mmfocal.{name}': value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def read_metadata(texts: dict[str, str], name: str) -> Any:
    """Returns one of the values of `make_metadata`, or None if it is missing; texts that are no JSON as they are."""
    text = texts.get(f'mmfocal.{name}')
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
