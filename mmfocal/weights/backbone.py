"""Weights for a Focal backbone, from whatever a checkpoint file holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.weights.loading import load_checkpoint
from mmfocal.weights.released import FIRST_TABLE, convert_paddle_layout, convert_released, is_paddle_layout
from mmfocal.weights.stem import expand_stem
from mmfocal.weights.swin import convert_swin, find_scheme, join_query_key_value, start_from_swin
from mmfocal.weights.tables import resize

STEM = 'patch_embed.proj.weight'
OUR_KEY = 'stages.0.blocks.0.attn.window_bias_table'
# where training codes keep parameters; PaddleViT and timm prefer the moving average too
_KEYS = ('model_ema', 'model', 'state_dict')
_OUTPUT_NORM = re.compile(r'^norm[0-3]\.(weight|bias)$')
# what a classifier lacks: output norms but the last, and the ring where its map was a single window, in stage 4 (with
# windows of 14 tokens in stage 3 too)
_FRESH = re.compile(r'^norm[0-3]\.|^stages\.[23]\.blocks\.\d+\.attn\.ring_bias_table$')


@dataclass
class BackboneWeights:
    """A backbone's state dict in this project's names.

    Args:
        state_dict: Names and tensors.
        ignored: Names of the file that are not the backbone's.
        kind: What the file was, for messages.
        origin: 'mmfocal', 'focal' (the released code) or 'swin'.
        head: `weight` and `bias` of a classifier's head; empty if the file has none.
    """

    state_dict: dict[str, Tensor]
    ignored: list[str]
    kind: str
    origin: str
    head: dict[str, Tensor] = field(default_factory=dict)


def load_backbone_weights(
    backbone: nn.Module, path: str, interpolate: bool = False, new_bias: float | None = None
) -> None:
    """Loads a checkpoint into a backbone and logs what was done.

    The file is a released Focal checkpoint, in PyTorch's or Paddle's form, one of ours (a backbone's or a detector's),
    or a Swin Transformer's. The output norms, and stage 4's neighbour table, stay as initialised where missing. A
    stem of three channels is fitted to one or to more than three, as in `expand_stem`.

    Args:
        backbone: A `FocalTransformer`.
        path: File or URL.
        interpolate: Interpolate bias tables and pooling weights of another window size.
        new_bias: Of a Swin file, the initial bias of the keys that Swin does not have; by default the ring's biases
            continue the window's table and the pooled tokens' are 0.

    Raises:
        CheckpointError: If the file is of another model or size; the message names the first mismatch.
        ConfigError: If `new_bias` is given with another file than Swin's.
    """
    loaded = backbone_weights(load_checkpoint(path), path)
    if new_bias is not None and loaded.origin != 'swin':
        raise ConfigError(f'init_cfg: new_bias is for Swin checkpoints, {path} is {loaded.kind}; remove it')
    state_dict, target = loaded.state_dict, backbone.state_dict()
    ignored = loaded.ignored + [name for name in state_dict if name not in target and _OUTPUT_NORM.match(name)]
    state_dict = {name: value for name, value in state_dict.items() if name in target or not _OUTPUT_NORM.match(name)}
    stem = expand_stem(state_dict, target, STEM)
    resized = _interpolate(state_dict, target) if interpolate else []
    started: list[str] = []
    if loaded.origin == 'swin':
        kept = {name: value for name, value in state_dict.items() if '.downsample.' not in name}
        _check_shapes(kept, target, path)  # what new parts are derived from
        complete = start_from_swin(state_dict, target, new_bias)
        started = [name for name in complete if name not in state_dict]
        state_dict = complete
    new = [name for name in target if name not in state_dict and _FRESH.match(name)]
    _check(state_dict, target, new, path)

    backbone.load_state_dict(state_dict, strict=False)
    print_log(f'Loaded {len(state_dict) - len(started)} tensors of {loaded.kind} from {path}', 'current')
    if stem:
        print_log(f'  {stem}', 'current')
    for what, names in (
        ('interpolated from another window size', resized),
        (
            'started so that Swin’s function is about kept',
            [re.sub(r'^stages\.\d', 'stages.*', name) for name in started],
        ),
        ('newly initialised, the file lacks them', new),
        ('ignored, not part of this backbone', ignored),
    ):
        if names:
            print_log(f'  {what}: {_summary(names)}', 'current')
    broken = [name for name, value in state_dict.items() if not value.isfinite().all()]
    if broken:
        print_log(f'  WARNING: NaN or infinite values in the file: {_summary(broken)}', 'current')


def backbone_weights(checkpoint: Any, path: str) -> BackboneWeights:
    """Finds a backbone's state dict in what a checkpoint file holds, and converts it to this project's names.

    Args:
        checkpoint: A state dict, or one under `model_ema`, `model` or `state_dict`; of a backbone, or of a detector or
            segmentor with the backbone's names under `backbone.` or `encoder.`.
        path: The file's name, for messages.

    Raises:
        CheckpointError: If there is no Focal or Swin Transformer in it.
    """
    state_dict = find_state_dict(checkpoint, path)
    for name, value in state_dict.items():
        if value.layout == torch.strided and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f'{path}: {name} claims more values than the file holds; use another file')
    head = _find_head(state_dict)
    ignored: list[str] = []
    for prefix, key in (('backbone.', OUR_KEY), ('backbone.', FIRST_TABLE), ('encoder.', FIRST_TABLE)):
        if prefix + key in state_dict:
            ignored = [name for name in state_dict if not name.startswith(prefix)]
            state_dict = {
                name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)
            }
    if OUR_KEY in state_dict:
        return BackboneWeights(state_dict, ignored, 'an mmfocal checkpoint', 'mmfocal', head)
    swin = _without_prefix(join_query_key_value(state_dict), 'backbone.')
    scheme = find_scheme(swin)
    try:
        if scheme:
            converted, left_out = convert_swin(swin, scheme)
            return BackboneWeights(converted, ignored + left_out, f'a Swin checkpoint ({scheme.label})', 'swin')
        if FIRST_TABLE in state_dict:
            paddle = is_paddle_layout(state_dict)
            if paddle:
                state_dict = convert_paddle_layout(state_dict)
                head = _find_head(state_dict)
            tables = sum(name.endswith('_to_neighbors') for name in state_dict)
            converted, left_out = convert_released(state_dict)
            return BackboneWeights(
                converted,
                ignored + left_out,
                f'a released Focal checkpoint{" in Paddle’s layout" if paddle else ""} '
                f'({tables} neighbour tables merged to one column a token)',
                'focal',
                head,
            )
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from None
    raise CheckpointError(
        f'{path}: it holds no Focal or Swin Transformer (its first name is {next(iter(state_dict), "none")}); '
        'use weights of one of these'
    )


def _find_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the parameters of a classifier's linear head, of the released names or of MMPretrain's."""
    for prefix in ('head.', 'head.fc.'):
        head = {name: state_dict.get(prefix + name) for name in ('weight', 'bias')}
        found = {name: value for name, value in head.items() if value is not None}
        if len(found) == len(head) and found['weight'].dim() == 2:
            return found
    return {}


def find_state_dict(checkpoint: Any, path: str) -> dict[str, Tensor]:
    """Finds a state dict in a checkpoint, by itself or under one of the usual keys, and drops the prefix `module.`.

    Raises:
        CheckpointError: If there is none.
    """
    state_dict = checkpoint
    for _ in range(2):  # a training checkpoint may hold a whole checkpoint under `model`
        if isinstance(state_dict, dict):
            inner = [state_dict[key] for key in _KEYS if isinstance(state_dict.get(key), dict)]
            state_dict = inner[0] if inner else state_dict
    if (
        not isinstance(state_dict, dict)
        or not state_dict
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state_dict.items())
    ):
        raise CheckpointError(f'{path}: it holds no state dict, neither by itself nor under {", ".join(_KEYS)}')
    return {name.removeprefix('module.'): value for name, value in state_dict.items()}


def _without_prefix(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not any(name.startswith(prefix) for name in state_dict):
        return state_dict
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def _interpolate(state_dict: dict[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """Interpolates in `state_dict` what depends on the window size; returns the names."""
    resized = []
    for name, value in state_dict.items():
        if name in target and value.shape != target[name].shape:
            fitting = resize(name, value, target[name].shape)
            if fitting is not None:
                state_dict[name] = fitting
                resized.append(name)
    return resized


def _check(state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor], new: list[str], path: str) -> None:
    """Raises CheckpointError if a state dict does not fit a backbone; names in `new` may be missing."""
    _check_shapes(state_dict, target, path)
    missing = next((name for name in target if name not in state_dict and name not in new), None)
    surplus = next((name for name in state_dict if name not in target), None)
    if missing or surplus:
        reason = f'it lacks {missing}' if missing else f'the model has no {surplus}'
        advice = _advice(missing, surplus, state_dict)
        raise CheckpointError(f'{path} does not fit this FocalTransformer: {reason}{advice}')


def _check_shapes(state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor], path: str) -> None:
    for name, value in target.items():
        if name in state_dict and state_dict[name].shape != value.shape:
            found, wanted = tuple(state_dict[name].shape), tuple(value.shape)
            advice = ''
            if name == STEM and found[:2] == wanted[:2]:
                file, model = (side != 4 for side in (found[2], wanted[2]))
                advice = f'; the file has conv_embed={file}, the model conv_embed={model}: set conv_embed={file}'
                if 3 in (found[2], wanted[2]):  # ConvStem's
                    advice = f'; set stem_blocks{" as for the file" if found[2] == 3 else "=None"}'
            elif '.downsample.norm.' in name and found[0] != wanted[0]:
                advice = f"; set downsample='{'merge' if found[0] == 2 * wanted[0] else 'conv'}'"
            elif name.endswith('.window_bias_table') and found[0] == wanted[0]:
                window = (round(found[1] ** 0.5) + 1) // 2
                advice = (
                    f'; the file has window {window}: set window_size={window}, or interpolate=True in init_cfg to '
                    'interpolate its tables'
                )
            raise CheckpointError(
                f'{path} does not fit this FocalTransformer: {name} is {found} in the file and {wanted} in the model'
                f'{advice}'
            )


def _advice(missing: str | None, surplus: str | None, state_dict: Mapping[str, Tensor]) -> str:
    """Returns the option of the backbone that explains a name on one side only, or nothing."""
    for part, option in (
        ('.downsample.reduction.', ("set downsample='merge'", "set downsample='conv'")),
        ('.attn.qkv.bias', ('set qkv_bias=True', 'set qkv_bias=False')),
        ('.attn.pool_layers.', ("set focal_pool='fc'", "set focal_pool='mean'")),
        ('.gamma_1', ('set layer_scale', 'set layer_scale=None')),
        ('patch_embed.blocks.', ('set a higher stem_blocks', 'set a lower stem_blocks')),
        ('.pre_norm.', ('set pre_norm=True', 'set pre_norm=False')),
    ):
        if missing and part in missing and not any(part in name for name in state_dict):
            return f'; {option[1]}'
        if not missing and surplus and part in surplus:
            return f'; {option[0]}'
    return ''


def _summary(names: list[str]) -> str:
    """Returns the names in brief: modules rather than their weights and biases, each once whatever its block."""
    modules = (re.sub(r'\.(weight|bias)$', '', name) for name in names)
    return ', '.join(dict.fromkeys(re.sub(r'\b(layers|blocks)\.\d+', r'\1.*', name) for name in modules))
