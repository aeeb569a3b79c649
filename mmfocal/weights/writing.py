"""Writing of weights, as torch's `.pth` or as safetensors, with what they are and where they come from."""

import hashlib
import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically
from mmfocal.weights.backbone import find_state_dict
from mmfocal.weights.safetensors_file import encode_safetensors

FORMATS = ('.pth', '.safetensors')
# what of a checkpoint's meta belongs to its weights: `cfg`, the config's text, builds the model; MMDetection 2 kept the
# last two
_KEPT_META = ('architecture', 'source', 'conversion', 'cfg', 'dataset_meta', 'CLASSES', 'PALETTE')


def check_destination(path: str | Path) -> None:
    """Checks that weights can be written to a file, before anything is computed.

    Raises:
        ConfigError: If the file exists, or its name has no suffix of `FORMATS`.
    """
    if os.path.exists(path):
        raise ConfigError(f'{path}: the file exists already; choose another name or remove it')
    check_format(path)


def check_format(path: str | Path) -> None:
    """Checks that a file's name has a suffix of `FORMATS`.

    Raises:
        ConfigError: If it has not.
    """
    if Path(path).suffix not in FORMATS:
        raise ConfigError(f'{path}: the name says no format; let it end with {" or ".join(FORMATS)}')


def write_weights(path: str | Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes weights in the format that the file's name says, completely or not at all.

    Args:
        path: A file that ends with `.pth` or `.safetensors`.
        state_dict: Names and tensors.
        meta: `architecture`, `source`, `conversion` and others.

    Raises:
        ConfigError: If the file exists, or its name says no format.
        SavingError: If it cannot be written.
    """
    check_destination(path)
    write_atomically(path, _encode(Path(path).suffix, state_dict, meta))


def publish_weights(path: str | Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Writes weights as `write_weights` does, with the beginning of their hash in the file's name.

    `torch.hub.load_state_dict_from_url` compares the file with that hash if `check_hash=True`.

    Args:
        path: The file; the name that is written is `NAME-0123abcd.pth` for `NAME.pth`, with SHA-256's first 8 digits.
        state_dict, meta: As of `write_weights`.

    Returns:
        The file that was written.

    Raises:
        ConfigError: If the file exists, or its name says no format.
        SavingError: If it cannot be written.
    """
    path = Path(path)
    content = _encode(path.suffix, state_dict, meta)
    path = path.with_name(f'{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}{path.suffix}')
    check_destination(path)
    write_atomically(path, content)
    return path


def extract_weights(checkpoint: Any, path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns what of a training checkpoint is for use: the weights, and from its meta the classes and the source.

    Of moving averages these are the averages: MMEngine's `EMAHook` saves them under `state_dict`, and the last
    iteration's weights under `ema_state_dict`.

    Args:
        checkpoint: Content of the file.
        path: The file's name, for messages.

    Returns:
        The state dict, and the meta as plain Python values.

    Raises:
        CheckpointError: If there is no state dict.
    """
    state_dict = find_state_dict(checkpoint, path)
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict):
        return state_dict, {}
    return state_dict, {key: _plain(meta[key]) for key in _KEPT_META if key in meta}


def find_metrics(checkpoint: Mapping[str, Any]) -> dict[str, float]:
    """Returns the figures of the last validation or test that a training checkpoint has in its log, by name."""
    hub = checkpoint.get('message_hub')
    scalars = hub.get('log_scalars') if isinstance(hub, dict) else None
    metrics = {}
    for name, history in (scalars or {}).items():
        mode, _, metric = str(name).partition('/')
        if mode in ('val', 'test') and metric and metric.split('/')[-1] not in ('time', 'data_time'):
            values = history.data[0]
            if len(values) and math.isfinite(values[-1]):
                metrics[metric] = float(values[-1])
    return metrics


def _plain(value: Any) -> Any:
    """Returns a value of meta without arrays and tensors, which `torch.load` with `weights_only` may refuse."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value] if isinstance(value, list) else tuple(map(_plain, value))
    if value is None or isinstance(value, (str, bool, int, float)) and not hasattr(value, 'tolist'):
        return value
    return value.tolist() if hasattr(value, 'tolist') else str(value)


def _encode(suffix: str, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    if suffix == '.safetensors':
        return encode_safetensors(state_dict, meta)
    content = io.BytesIO()
    # a view would be saved with all of its storage
    weights = {name: value.detach().cpu().clone() for name, value in state_dict.items()}
    torch.save(dict(state_dict=weights, meta=dict(meta)), content)
    return content.getvalue()


def find_arch(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns `embed_dims`, `depths` and `num_heads` of a backbone's state dict, `FocalTransformer`'s `arch`."""
    depths, heads = [], []
    for stage in range(4):
        names = (re.match(rf'stages\.{stage}\.blocks\.(\d+)\.', name) for name in state_dict)
        depths.append(len({match[1] for match in names if match}))
        heads.append(state_dict[f'stages.{stage}.blocks.0.attn.window_bias_table'].shape[0])
    return dict(embed_dims=len(state_dict['patch_embed.proj.weight']), depths=tuple(depths), num_heads=tuple(heads))


def describe_architecture(state_dict: Mapping[str, Tensor]) -> str:
    """Returns the arguments of `FocalTransformer` that shapes tell, in words.

    Args:
        state_dict: A Focal backbone's, in this project's names.
    """
    window = (round(state_dict['stages.0.blocks.0.attn.window_bias_table'].shape[1] ** 0.5) + 1) // 2
    options = find_arch(state_dict) | dict(window_size=window)
    if 'stages.0.downsample.reduction.weight' in state_dict:
        options['downsample'] = 'merge'
    else:
        options['conv_embed'] = state_dict['stages.0.downsample.proj.weight'].shape[2] == 3
    if 'patch_embed.proj_norm.weight' in state_dict:
        blocks = (re.match(r'patch_embed\.blocks\.(\d+)\.', name) for name in state_dict)
        options['stem_blocks'] = len({match[1] for match in blocks if match})
    return f'FocalTransformer: {", ".join(f"{key}={value!r}" for key, value in options.items())}'
