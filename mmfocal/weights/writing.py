"""Writing of weights, as torch's `.pth` or as safetensors, with what they are and where they come from."""

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically
from mmfocal.weights.safetensors_file import write_safetensors

FORMATS = ('.pth', '.safetensors')


def check_destination(path: str | Path) -> None:
    """Checks that weights can be written to a file, before anything is computed.

    Raises:
        ConfigError: If the file exists, or its name has no suffix of `FORMATS`.
    """
    if os.path.exists(path):
        raise ConfigError(f'{path}: the file exists already; choose another name or remove it')
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
    if Path(path).suffix == '.safetensors':
        write_safetensors(path, state_dict, meta)
        return
    content = io.BytesIO()
    # a view would be saved with all of its storage
    torch.save(dict(state_dict={name: value.clone() for name, value in state_dict.items()}, meta=dict(meta)), content)
    write_atomically(path, content.getvalue())


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
        options['conv_embed'] = state_dict['patch_embed.proj.weight'].shape[2] != 4
    return f'FocalTransformer: {", ".join(f"{key}={value!r}" for key, value in options.items())}'
