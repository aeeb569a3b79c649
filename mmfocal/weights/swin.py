"""Swin Transformer's checkpoints (https://arxiv.org/abs/2103.14030) as a start for a Focal backbone.

The two share stem, norms, projections, MLPs and the table of the own window. Swin merges patches between stages where
Focal has a convolution, and has no ring and no pooled tokens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmfocal.weights.tables import extend_window_table


@dataclass(frozen=True)
class Scheme:
    """How one library names a Swin Transformer's parameters.

    Args:
        label: Whose names, for messages.
        key: A name that only such files have.
        renames: Patterns and replacements that give our names.
        unfold_order: Whether a merged patch's channels are ordered as `torch.nn.Unfold` does.
    """

    label: str
    key: str
    renames: tuple[tuple[str, str], ...]
    unfold_order: bool = False


_COMMON = ((r'\.relative_position_bias_table$', '.window_bias_table'), (r'^norm\.', 'norm3.'))
SCHEMES = (
    Scheme("OpenMMLab's names", 'stages.0.blocks.0.attn.w_msa.qkv.weight', (
        (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
        (r'\.attn\.w_msa\.', '.attn.'),
        (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
        (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
        *_COMMON,
    ), unfold_order=True),
    Scheme("torchvision's names", 'features.1.0.attn.qkv.weight', (
        (r'^features\.0\.0\.', 'patch_embed.proj.'),
        (r'^features\.0\.2\.', 'patch_embed.norm.'),
        *((rf'^features\.{2 * stage + 1}\.(\d+)\.', rf'stages.{stage}.blocks.\1.') for stage in range(4)),
        *((rf'^features\.{2 * stage + 2}\.', f'stages.{stage}.downsample.') for stage in range(3)),
        (r'\.mlp\.0\.', '.mlp.fc1.'),
        (r'\.mlp\.3\.', '.mlp.fc2.'),
        *_COMMON,
    )),
    Scheme("Transformers' names", 'encoder.layers.0.blocks.0.attention.self.qkv.weight', (
        (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
        (r'^embeddings\.norm\.', 'patch_embed.norm.'),
        (r'^encoder\.layers\.', 'stages.'),
        (r'\.layernorm_before\.', '.norm1.'),
        (r'\.layernorm_after\.', '.norm2.'),
        (r'\.attention\.(self|relative_position_bias)\.', '.attn.'),
        (r'\.attention\.(output\.dense|o_proj)\.', '.attn.proj.'),
        (r'\.intermediate\.dense\.', '.mlp.fc1.'),
        (r'\.output\.dense\.', '.mlp.fc2.'),
        (r'^layernorm\.', 'norm3.'),
        *_COMMON,
    )),
    Scheme("the official release's or timm's names", 'layers.0.blocks.0.attn.qkv.weight', (
        (r'^layers\.', 'stages.'),
        *_COMMON,
    )),
)  # fmt: skip
_IGNORED = re.compile(r'^(head|classifier|avgpool)\.|relative_position_index|attn_mask|relative_coords_table')
_QKV = re.compile(r'(.*\.attention\.)(?:self\.(?=query|key|value)|(?=[qkv]_proj))([qkv])\w*(\.weight|\.bias)$')


def find_scheme(state_dict: Mapping[str, Tensor]) -> Scheme | None:
    """Returns the naming scheme of a Swin Transformer's state dict, or None if it holds another model.

    The official names of Swin are a subset of the released Focal code's; the merging of patches tells them apart.
    """
    if not any(name.endswith(('.reduction.weight', '.reduction.bias')) for name in state_dict):
        return None
    return next((scheme for scheme in SCHEMES if scheme.key in state_dict), None)


def join_query_key_value(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Joins Transformers' three projections into one, and drops its prefix `swin.`; other files stay as they are."""
    joined: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state_dict.items():
        match = _QKV.match(name)
        if match:
            parts.setdefault(f'{match[1]}self.qkv{match[3]}', {})[match[2]] = value
        else:
            joined[name] = value
    for name, three in parts.items():
        if len(three) == 3:
            joined[name] = torch.cat([three['q'], three['k'], three['v']])
    return {name.removeprefix('swin.'): value for name, value in joined.items()} if parts else joined


def convert_swin(state_dict: Mapping[str, Tensor], scheme: Scheme) -> tuple[dict[str, Tensor], list[str]]:
    """Converts a Swin state dict to our names, for `FocalTransformer(downsample='merge')`.

    Args:
        state_dict: The file's parameters.
        scheme: What `find_scheme` returned for it.

    Returns:
        Our state dict, and the names that it leaves out: the classification head and the index buffers.

    Raises:
        ValueError: If the model is Swin V2, or has absolute position embeddings.
    """
    if any(name.endswith('.logit_scale') for name in state_dict):
        raise ValueError(
            'it is Swin V2, whose cosine attention Focal does not have; use Swin (V1) weights of 224 pixels, window 7'
        )
    if any('absolute_pos_embed' in name or 'position_embeddings' in name for name in state_dict):
        raise ValueError('it has absolute position embeddings, which Focal does not; use weights without')
    # newer timm versions put the merging at the start of the next stage
    late = 'layers.0.blocks.0.attn.qkv.weight' in state_dict and 'layers.3.downsample.reduction.weight' in state_dict
    converted, ignored = {}, []
    for name, value in state_dict.items():
        if _IGNORED.search(name):
            ignored.append(name)
            continue
        if late:
            name = re.sub(r'^layers\.(\d)\.downsample\.', lambda match: f'layers.{int(match[1]) - 1}.downsample.', name)
        for pattern, replacement in scheme.renames:
            name = re.sub(pattern, replacement, name)
        if name.endswith('.window_bias_table'):
            value = value.t().contiguous()
        elif '.downsample.' in name and scheme.unfold_order:
            value = _from_unfold_order(value)
        converted[name] = value
    return converted, ignored


def start_from_swin(
    state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor], new_bias: float | None = None
) -> dict[str, Tensor]:
    """Adds to a converted Swin state dict what a Focal backbone has besides, so that it computes about the same.

    Sub-windows are pooled by their mean. The ring's biases continue the window's table; the pooled tokens' are 0.

    Args:
        state_dict: As of `convert_swin`.
        target: The backbone's state dict, for names and shapes.
        new_bias: The bias of all ring and pooled keys instead. With −5 the backbone computes nearly what Swin does; far
            below, as with −100, the new keys get no gradient in float32.

    Returns:
        A state dict for the backbone; a convolution between stages is the closed form of `approximate_merging`.
    """
    started = dict(state_dict)
    for name, value in target.items():
        if name in started:
            continue
        prefix, _, last = name.rpartition('.')
        window_table = state_dict.get(f'{prefix}.window_bias_table')
        if last == 'ring_bias_table' and window_table is not None and new_bias is None:
            started[name] = extend_window_table(window_table, round(value.shape[1] ** 0.5), value.shape[2])
        elif last == 'ring_bias_table' or prefix.endswith('.pooled_bias_tables'):
            started[name] = torch.full_like(value, new_bias or 0.0)
        elif '.pool_layers.' in name:
            started[name] = torch.full_like(value, 1 / value.shape[1] if last == 'weight' else 0.0)
    for stage in range(3):
        prefix = f'stages.{stage}.downsample.'
        merging = [started.get(prefix + name) for name in ('norm.weight', 'norm.bias', 'reduction.weight')]
        convolution = target.get(f'{prefix}proj.weight')
        if convolution is not None and convolution.shape[2:] == (2, 2) and all(value is not None for value in merging):
            del started[f'{prefix}reduction.weight']
            approximation = approximate_merging(*merging)  # type: ignore[arg-type]
            started.update({prefix + name: value for name, value in approximation.items()})
    return started


def approximate_merging(norm_weight: Tensor, norm_bias: Tensor, reduction: Tensor) -> dict[str, Tensor]:
    """Approximates Swin's merging, a LayerNorm of 4C channels and a linear layer, by a convolution and a LayerNorm.

    The linear layer with the norm's gains and centred rows needs no mean; what remains of the norm, the division by a
    deviation, moves behind the convolution, where it is another one. `fit_downsampling` corrects that on images.

    Args:
        norm_weight: (4C,).
        norm_bias: (4C,).
        reduction: (2C, 4C), the four tokens in the order of `PatchMerging`.

    Returns:
        `proj.weight` (2C, C, 2, 2), `proj.bias`, `norm.weight` and `norm.bias` (2C,).
    """
    weight = reduction * norm_weight
    weight = weight - weight.mean(1, keepdim=True)
    gain = weight.square().sum(1).mean().sqrt()
    # (2C, column, row, C) → (2C, C, row, column)
    kernel = weight.unflatten(1, (2, 2, -1)).permute(0, 3, 2, 1).contiguous()
    return {
        'proj.weight': kernel,
        'proj.bias': reduction.new_zeros(len(reduction)),
        'norm.weight': gain.expand(len(reduction)).clone(),
        'norm.bias': reduction @ norm_bias,
    }


def _from_unfold_order(value: Tensor) -> Tensor:
    """Reorders merged channels, (…, 4C): from channel, row, column to `PatchMerging`'s column, row, channel."""
    return value.unflatten(-1, (-1, 2, 2)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3)
