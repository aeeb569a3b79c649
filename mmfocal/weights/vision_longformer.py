"""Released Vision Longformer checkpoints, of classifiers and detectors, in this project's names."""

import re

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmfocal.errors import CheckpointError
from mmfocal.weights.fitting import load_fitting
from mmfocal.weights.loading import load_checkpoint
from mmfocal.weights.stem import expand_stem

# Released names of a half block, `layerS.K.`, by ours.
ATTENTION = {
    'proj': 'proj',
    'proj_global': 'proj_global',
    'local_relative_position_bias_table': 'bias_table',
    'g2l_relative_position_bias': 'local_global_bias',
    'g2g_relative_position_bias': 'global_bias',
}
EMBED = {
    'proj': 'proj',
    'norm_embed': 'norm',
    'cls_token': 'global_tokens',
    'cls_pos_embed': 'global_positions',
    'x_pos_embed': 'row_positions',
    'y_pos_embed': 'col_positions',
}


def load_vision_longformer_weights(backbone: nn.Module, path: str) -> None:
    """Loads a checkpoint, released or ours, into a `VisionLongformer` and logs what was done.

    Tables of positions and of relative biases are resized to the model's as the released code does it.

    Args:
        backbone: A `VisionLongformer`.
        path: File or URL.

    Raises:
        CheckpointError: If the file is of another model or size.
    """
    checkpoint = load_checkpoint(path)
    target = backbone.state_dict()
    state_dict, ignored = backbone_state_dict(checkpoint, path, target)
    stem = expand_stem(state_dict, target, 'stages.0.embed.proj.weight')
    number = load_fitting(backbone, state_dict, path, state_dict.keys() - {'norm.weight', 'norm.bias'})
    print_log(f'Loaded {number} tensors of a Vision Longformer from {path}', 'current')
    if stem:
        print_log(f'  {stem}', 'current')
    if ignored:
        print_log(f'  ignored, not part of this backbone: {", ".join(ignored)}', 'current')


def backbone_state_dict(
    checkpoint: dict, path: str, target: dict[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns a backbone's state dict in this project's names, and the released names that were left out.

    Args:
        checkpoint: Content of the file: a state dict, by itself or under `net`, `model` or `state_dict`, of a
            classifier or a
            detector.
        path: Name of the file, for messages.
        target: State dict of the model, whose shapes tables are resized to; None to leave them.

    Raises:
        CheckpointError: If the file does not hold a Vision Longformer.
    """
    state_dict = checkpoint
    for key in ('net', 'model', 'state_dict'):
        if isinstance(state_dict, dict) and isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    if not isinstance(state_dict, dict):
        raise CheckpointError(f'{path}: holds no state dict, neither by itself nor under net, model or state_dict')
    named = {
        re.sub(r'^(module\.)?(backbone\.(bottom_up\.)?)?', '', name): value
        for name, value in state_dict.items()
        if isinstance(value, Tensor)
    }
    if 'stages.0.embed.proj.weight' in named:
        own = {name: value for name, value in named.items() if name.startswith(('stages.', 'norm.'))}
        return own, sorted(named.keys() - own.keys())
    if 'layer1.0.proj.weight' not in named or not any('.attn.' in name for name in named):
        raise CheckpointError(f'{path}: holds no Vision Longformer: layer1.0.proj.weight is not in it')
    converted, ignored = _rename(named)
    _share(converted, target)
    if target is not None:
        _resize(converted, target)
    return converted, ignored


def _rename(released: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    converted: dict[str, Tensor] = {}
    ignored = []
    for name, value in released.items():
        match = re.fullmatch(r'layer([1-4])\.(\d+)\.(.+)', name)
        if not match:
            if name in ('norm.weight', 'norm.bias'):
                converted[name] = value
            else:
                ignored.append(name)
            continue
        stage, place, rest = f'stages.{int(match[1]) - 1}', int(match[2]), match[3]
        if place == 0:
            part, _, kind = rest.partition('.')
            if part not in EMBED:
                ignored.append(name)
            elif value.numel():  # stage 4 has an empty table for its 0 global tokens
                converted['.'.join(filter(None, (stage, 'embed', EMBED[part], kind)))] = value
            continue
        block = f'{stage}.blocks.{(place - 1) // 2}'
        is_mlp = place % 2 == 0
        if rest.startswith('norm.'):
            converted[f'{block}.norm{2 if is_mlp else 1}.{rest[5:]}'] = value
        elif rest.startswith('mlp.'):
            converted[f'{block}.{rest}'] = value
        elif match := re.fullmatch(r'attn\.(qkv|query|kv|query_global|kv_global)\.(weight|bias)', rest):
            part, kind = match.groups()
            suffix = '_global' if part.endswith('_global') else ''
            target = f'{block}.attn.qkv{suffix}.{kind}'
            if part == 'qkv':
                converted[target] = value
            elif part.startswith('query'):
                keys_values = released[name.replace('.query', '.kv')]
                converted[target] = torch.cat([value, keys_values])
        elif (part := rest.removeprefix('attn.').partition('.'))[0] in ATTENTION:
            converted['.'.join(filter(None, (f'{block}.attn', ATTENTION[part[0]], part[2])))] = value
        else:
            ignored.append(name)  # relative_position_index
    return converted, ignored


def _share(state_dict: dict[str, Tensor], target: dict[str, Tensor] | None) -> None:
    """Removes the second copies of shared global projections, or makes them for a model that has its own.

    The released code saves shared modules under both names.
    """
    for name in [name for name in state_dict if re.search(r'\.attn\.(qkv|proj)\.', name)]:
        copy = re.sub(r'\.attn\.(qkv|proj)\.', r'.attn.\1_global.', name)
        if target is not None and copy in target:
            state_dict.setdefault(copy, state_dict[name])
        elif copy in state_dict and state_dict[copy].equal(state_dict[name]):
            del state_dict[copy]


def _resize(state_dict: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Resizes tables in place to the shapes of a model, as the released conversion does."""
    for name, value in state_dict.items():
        shape = target[name].shape if name in target else value.shape
        if value.shape == shape:
            continue
        if name.endswith('_positions') and 'global' not in name and value.shape[1] > 1:
            state_dict[name] = F.interpolate(
                value.transpose(1, 2), shape[1], mode='linear', align_corners=False
            ).transpose(1, 2)
        elif name.endswith('bias_table') and value.shape[1] == shape[1]:
            old, new = (round(len_**0.5) for len_ in (value.shape[0], shape[0]))
            table = value.t().reshape(1, -1, old, old)
            table = F.interpolate(table, (new, new), mode='bilinear', align_corners=False)
            state_dict[name] = table.view(-1, new * new).t()
        elif name.endswith(('global_tokens', 'global_positions')) and value.shape[1] == 1:
            state_dict[name] = value.expand(shape).clone()
