"""What each token of a Focal Transformer attends to: weights, and where their keys are on the image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mmfocal.errors import ConfigError
from mmfocal.models.focal_attention import FocalAttention
from mmfocal.ops.focal_attention import Layout
from mmfocal.ops.focal_attention.backends import reference
from mmfocal.ops.focal_attention.geometry import get_geometry, window_reverse


@dataclass
class AttentionMaps:
    """The attention weights of one block, and its keys.

    Args:
        weights: (B, heads, h, w, keys), which sum to 1 over the keys; keys outside the map have a weight of 0.
        window: (h, w), int64: the window that a token's keys are those of, row-major in the padded map.
        boxes: (n, keys, 4), xyxy in pixels of the input: what a key covers. It is a token in the window and its ring,
            and the tokens that were pooled at a pooled level; NaN where the key is outside the map. Maps are padded to
            whole windows, so that keys may be right of the image or below it. In a shifted block a pooled key may
            reach over the padded map's end, and continues at its start.
        kinds: What the keys are, as slices of them: 'own window', 'ring', 'pooled 1', 'pooled 2', ….
        stride: Pixels from token to token.
        padded_size: Height and width of the padded map, in pixels.
    """

    weights: Tensor
    window: Tensor
    boxes: Tensor
    kinds: dict[str, slice]
    stride: int
    padded_size: tuple[int, int]

    def token_at(self, x: float, y: float) -> tuple[int, int]:
        """Returns row and column of the token at a point, in pixels of the input; the nearest one if it is outside."""
        height, width = self.window.shape
        row, column = int(y // self.stride), int(x // self.stride)
        return min(max(row, 0), height - 1), min(max(column, 0), width - 1)

    def mass(self) -> dict[str, Tensor]:
        """Returns how much of the attention goes to each kind of keys, (heads,), averaged over images and tokens."""
        return {kind: self.weights[..., keys].sum(-1).mean((0, 2, 3)) for kind, keys in self.kinds.items()}

    def padding_mass(self) -> float:
        """Returns how much of the attention goes to keys in the padding, averaged over heads, images and tokens."""
        height, width = self.window.shape
        padded = (self.boxes[..., 0] >= width * self.stride) | (self.boxes[..., 1] >= height * self.stride)
        return float((self.weights.mean((0, 1)) * padded[self.window]).sum(-1).mean())

    def mass_within(self, distances: Tensor) -> Tensor:
        """Returns how much of the attention goes to keys within distances.

        Args:
            distances: (m,), increasing, in pixels, from the middle of a token to the middle of a key.

        Returns:
            (heads, m), averaged over images and tokens.
        """
        height, width = self.window.shape
        batch, heads = self.weights.shape[:2]
        middles = (self.boxes[..., :2] + self.boxes[..., 2:]) / 2  # (n, keys, 2)
        total = self.weights.new_zeros(heads, len(distances) + 1)
        for row in range(height):  # of all tokens at once this would be as large as the weights
            queries = (torch.stack([torch.arange(width), torch.full((width,), row)], -1) + 0.5) * self.stride
            apart = (middles[self.window[row]] - queries[:, None].to(middles)).square().sum(-1).sqrt()
            bins = torch.bucketize(apart.nan_to_num(torch.inf), distances.to(apart))  # (w, keys)
            weights = self.weights[:, :, row].sum(0).flatten(1)
            total.index_add_(1, bins.flatten(), weights)
        return total[:, :-1].cumsum(1) / (batch * height * width)


def attention_maps(backbone: nn.Module, images: Tensor, stage: int, block: int) -> AttentionMaps:
    """Computes the attention weights of one block with the reference backend's definition, whatever its backend.

    Args:
        backbone: A `FocalTransformer`, in eval mode for weights without dropout.
        images: (B, C, H, W), normalised, as for the backbone.
        stage: 0 to 3.
        block: 0-based, within the stage; −1 is the last.

    Returns:
        The weights and their keys.

    Raises:
        ConfigError: If the backbone is another one, or has no such block.
    """
    blocks = check_focal(backbone).stages[check_index('stage', stage, len(backbone.stages))].blocks
    block = check_index('block', block, len(blocks), f'stage {stage}')
    found: list[AttentionMaps] = []
    wanted = (stage % len(backbone.stages), block)
    visit_attention(backbone, images, lambda maps, *place: found.append(maps), lambda *place: place == wanted)
    if not found:
        raise ConfigError(f'stage {stage} does not run: out_indices={backbone.out_indices}; choose an earlier stage')
    return found[0]


@torch.no_grad()
def visit_attention(
    backbone: nn.Module,
    images: Tensor,
    visit: Callable[[AttentionMaps, int, int], object],
    wanted: Callable[[int, int], bool] = lambda stage, block: True,
) -> None:
    """Runs a backbone, and calls a function with the attention maps of each block; one block's are kept at a time.

    Args:
        backbone: A `FocalTransformer`.
        images: (B, C, H, W), normalised.
        visit: Is called with the maps, the stage and the block.
        wanted: Whether a block of a stage is visited. Defaults to all.

    Raises:
        ConfigError: If the backbone is another one.
    """

    def hook(stage: int, block: int, attention: FocalAttention, inputs: tuple[Tensor]) -> None:
        visit(_maps_of(attention, inputs[0], 4 * 2**stage), stage, block)

    hooks = []
    try:
        for i, stage in enumerate(check_focal(backbone).stages):
            for j, block in enumerate(stage.blocks):
                if wanted(i, j):
                    hooks.append(block.attn.register_forward_pre_hook(partial(hook, i, j)))
        backbone(images)
    finally:
        for handle in hooks:
            handle.remove()


def check_focal(backbone: nn.Module) -> nn.Module:
    """Returns the backbone if it has focal attention.

    Raises:
        ConfigError: If it has not.
    """
    if not any(isinstance(module, FocalAttention) for module in backbone.modules()):
        raise ConfigError(
            f'the backbone is {type(backbone).__name__}, which has no focal attention; use a checkpoint with a '
            'FocalTransformer'
        )
    return backbone


def check_index(name: str, value: int, count: int, where: str = 'the backbone', option: str = '') -> int:
    """Returns a 0-based index, counted from the end if it is negative; `option` precedes its name in the error.

    Raises:
        ConfigError: If there is none such.
    """
    if not -count <= value < count:
        raise ConfigError(f'{option}{name} {value}: {where} has {name}s 0 to {count - 1}; choose one of them')
    return value % count


def _maps_of(attention: FocalAttention, x: Tensor, stride: int) -> AttentionMaps:
    """Computes the maps of a block from its normalised input, (B, h, w, C)."""
    h, w = x.shape[1:3]
    qkv, pooled_kv, layout = attention.project(x)
    q, k, _ = qkv.unbind(3)
    height, width = q.shape[1:3]
    weights = reference.attention_weights(q, k, [pooled[:, :, :, 0] for pooled in pooled_kv], attention.bias(), layout)
    shift = attention.shift if layout.shifted else 0
    windows = torch.arange(weights.shape[1], device=x.device)[None, :, None].expand(1, -1, layout.tokens)
    weights, windows = (
        window_reverse(maps, layout.window_size, height, width).roll((shift, shift), (1, 2))[:, :h, :w]
        for maps in (weights.transpose(2, 3), windows)
    )
    ends = [layout.tokens, layout.ring, *(layout.region(level) ** 2 for level in range(layout.pooled_levels))]
    kinds, start = {}, 0
    for kind, count in zip(('own window', 'ring', *(f'pooled {i + 1}' for i in range(layout.pooled_levels))), ends):
        if count:
            kinds[kind] = slice(start, start + count)
        start += count
    boxes = key_boxes(layout, height, width, shift, x)
    return AttentionMaps(
        weights.permute(0, 3, 1, 2, 4), windows[0], boxes * stride, kinds, stride, (height * stride, width * stride)
    )


def key_boxes(layout: Layout, height: int, width: int, shift: int, x: Tensor) -> Tensor:
    """Returns what the keys of each window cover, (n, keys, 4), xyxy in tokens; NaN for keys outside the map.

    Args:
        layout: The attention pattern.
        height: Height of the padded map.
        width: Width of the padded map.
        shift: Tokens by which the map was rolled up and to the left; 0 without a shift.
        x: Any tensor on the device of the result.
    """
    sides = [(1, 0, 0, height, width)]
    for level in range(layout.pooled_levels):
        sides.append((*layout.pooled_windows(height, width, level), *layout.pooled_size(height, width, level)))
    tables = []
    for side, top, left, rows, cols in sides:
        tops = (top + side * torch.arange(rows, device=x.device) + shift) % height
        lefts = (left + side * torch.arange(cols, device=x.device) + shift) % width
        tops, lefts = (axis.flatten().float() for axis in torch.meshgrid(tops, lefts, indexing='ij'))
        tables.append(torch.stack([lefts, tops, lefts + side, tops + side], -1))
    tables.append(torch.full((1, 4), torch.nan, device=x.device))
    return torch.cat(tables)[get_geometry(layout, height, width, x).key_index]
