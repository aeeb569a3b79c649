"""The arguments of a Focal backbone that the shapes of its weights tell."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmfocal.weights.writing import find_arch


def find_backbone_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the arguments with which `FocalTransformer` has weights of these shapes.

    Shapes do not tell `border`, `use_shift` and what matters in training only; these keep their defaults, which are
    those of the released checkpoints.

    Args:
        state_dict: A Focal backbone's, in this project's names.
    """
    windows, expand_sizes, focal_levels, focal_windows = [], [], [], []
    for stage in range(4):
        attention = f'stages.{stage}.blocks.0.attn.'
        window = (round(state_dict[f'{attention}window_bias_table'].shape[1] ** 0.5) + 1) // 2
        ring = state_dict.get(f'{attention}ring_bias_table')
        region = 0 if ring is None else round((ring.shape[2] + window**2) ** 0.5)
        tables = [value for name, value in state_dict.items() if name.startswith(f'{attention}pooled_bias_tables.')]
        windows.append(window)
        expand_sizes.append(0 if ring is None else (region - window) // 2)
        focal_levels.append(len(tables) + 1)
        focal_windows.append(round(tables[0].shape[1] ** 0.5) - window + 1 if tables else 1)
    stem = state_dict['patch_embed.proj.weight']
    first = 'stages.0.blocks.0.'
    gain = state_dict.get(f'{first}gamma_1')
    merges = 'stages.0.downsample.reduction.weight' in state_dict
    stem_blocks = {name.split('.')[2] for name in state_dict if name.startswith('patch_embed.blocks.')}
    return dict(
        arch=find_arch(state_dict),
        in_channels=stem.shape[1],
        window_size=windows,
        expand_sizes=expand_sizes,
        focal_levels=focal_levels,
        focal_windows=focal_windows,
        focal_pool='fc' if any('.pool_layers.' in name for name in state_dict) else 'mean',
        mlp_ratio=state_dict[f'{first}mlp.fc1.weight'].shape[0] / stem.shape[0],
        qkv_bias=f'{first}attn.qkv.bias' in state_dict,
        conv_embed=not merges and state_dict['stages.0.downsample.proj.weight'].shape[2] == 3,
        stem_blocks=len(stem_blocks) if 'patch_embed.proj_norm.weight' in state_dict else None,
        layer_scale=None if gain is None else 1.0,
        downsample='merge' if merges else 'conv',
        pre_norm=any('.pre_norm.' in name for name in state_dict),
    )
