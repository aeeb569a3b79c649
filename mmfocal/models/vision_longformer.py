"""Vision Longformer (ViL), the strongest baseline of the paper's Tables 3 and 4 beside Swin."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmfocal.errors import ConfigError
from mmfocal.models.mlp import Mlp
from mmfocal.models.pretrained import PretrainedBackbone, check_choice, check_per_stage, parse_out_indices
from mmfocal.ops.focal_attention import relative_index
from mmfocal.ops.sliding_chunks import NEIGHBORS, PATTERNS, sliding_chunk_attention
from mmfocal.weights.vision_longformer import load_vision_longformer_weights


@MODELS.register_module()
class VisionLongformer(PretrainedBackbone):
    """Vision Longformer backbone for dense prediction, https://arxiv.org/abs/2103.15358.

    Each stage has its own global tokens, which see all tokens of their stage and are seen by all. Local tokens see
    the 3 × 3 chunks
    of `window_size` × `window_size` tokens around them ('sparse'), or the whole map ('full').

    Args:
        arch: 'tiny', 'small', 'medium', 'base', or dict(embed_dims=…, depths=…, num_heads=…): channels, blocks and
            heads, one per stage.
        in_channels: Channels of the image.
        window_size: Side of a chunk (w) in tokens; one value, or one per stage.
        attention: 'sparse' or 'full', one per stage. Classifiers are full in stages 3 and 4; detectors are sparse
            throughout.
        positions: 'absolute' (first version of the ViL paper, which the Focal paper compares with) or 'relative'.
        img_size: Side in pixels that the tables of absolute positions are made for, rounded up to a multiple of 32,
            and that full
            attention with relative positions works at. A smaller map uses the first entries of the tables, a larger
            one interpolates them
            (the released code refuses it).
        num_global_tokens: Global tokens (g), one number per stage.
        share_global: Whether global queries use the projections of the local ones, as all released models do.
        pattern: Pattern of sparse attention, see `sliding_chunk_attention`.
        neighbors: Chunks that a local token sees beside its own: 'all'; 'random', a random one in each training step
            and all in
            evaluation (released `MODE` > 0); or 'none' (released `MODE` −1).
        mlp_ratio: Hidden channels of the MLP relative to its channels.
        qkv_bias: Whether the projections of queries, keys and values have a bias.
        norm_embed: Whether a LayerNorm follows the patch embedding.
        drop_rate: Dropout after the positions, after the attention's projection and in the MLP.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        final_norm: Whether the output of stage 4 is normalized over channels, as for classification.
        out_indices: Stages, 0–3, whose maps are returned.
        with_cp: Recompute each block in backward to save memory.
        init_cfg: dict(type='Pretrained', checkpoint=FILE_OR_URL) loads a released checkpoint, or one of ours; 'none'
            starts from scratch.

    Raises:
        ConfigError: If an argument cannot work.
    """

    archs = {
        'tiny': dict(embed_dims=(48, 96, 192, 384), depths=(1, 1, 9, 1), num_heads=(1, 3, 3, 6)),
        'small': dict(embed_dims=(96, 192, 384, 768), depths=(1, 2, 8, 1), num_heads=(3, 3, 6, 12)),
        'medium': dict(embed_dims=(96, 192, 384, 768), depths=(1, 4, 16, 1), num_heads=(3, 3, 6, 12)),
        'base': dict(embed_dims=(96, 192, 384, 768), depths=(1, 8, 24, 1), num_heads=(3, 3, 6, 12)),
    }

    def __init__(
        self,
        *,
        arch: str | dict = 'small',
        in_channels: int = 3,
        window_size: int | Sequence[int] = 7,
        attention: Sequence[str] = ('sparse', 'sparse', 'sparse', 'sparse'),
        positions: str = 'absolute',
        img_size: int = 1333,
        num_global_tokens: Sequence[int] = (1, 1, 1, 0),
        share_global: bool = True,
        pattern: str = 'chunk',
        neighbors: str = 'all',
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_embed: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        final_norm: bool = False,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = arch if isinstance(arch, str) else 'custom'
        arch = _arch(arch, self.archs)
        out_indices = parse_out_indices('VisionLongformer', out_indices)
        window_sizes = (window_size,) * 4 if isinstance(window_size, int) else tuple(window_size)
        _check_entries('window_size', window_sizes, lambda size: isinstance(size, int) and size > 0)
        _check_entries('attention', attention, lambda kind: kind in ('sparse', 'full'))
        _check_entries('num_global_tokens', num_global_tokens, lambda count: isinstance(count, int) and count >= 0)
        check_choice('VisionLongformer', 'positions', positions, ('absolute', 'relative'))
        check_choice('VisionLongformer', 'pattern', pattern, PATTERNS)
        check_choice('VisionLongformer', 'neighbors', neighbors, ('all', 'random', 'none'))
        if pattern == 'exact' and neighbors != 'all':
            raise ConfigError(f"VisionLongformer: pattern='exact' needs neighbors='all', got {neighbors!r}")
        self.in_channels = in_channels
        self.out_indices = out_indices
        side = -(-img_size // 32) * 32
        dims = arch['embed_dims']
        drop_paths = torch.linspace(0, drop_path_rate, sum(arch['depths']), device='cpu').tolist()
        self.stages = nn.ModuleList()
        for i in range(4):
            dim = dims[i]
            count = arch['depths'][i]
            common = dict(
                num_heads=arch['num_heads'][i],
                num_global=num_global_tokens[i],
                relative=positions == 'relative',
                qkv_bias=qkv_bias,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
            )
            blocks = []
            for _ in range(count):
                attn: nn.Module
                if attention[i] == 'sparse':
                    attn = SlidingChunkAttention(
                        dim, window_sizes[i], pattern=pattern, neighbors=neighbors, share_global=share_global, **common
                    )
                else:
                    attn = FullAttention(dim, map_size=img_size // (4 * 2**i), **common)
                blocks.append(LongformerBlock(dim, attn, mlp_ratio, drop_rate, drop_paths.pop(0)))
            embed = TokenEmbed(
                in_channels if i == 0 else dims[i - 1],
                dim,
                patch_size=4 if i == 0 else 2,
                num_global=num_global_tokens[i],
                table_size=side // (4 * 2**i) if positions == 'absolute' else None,
                norm=norm_embed,
                drop=drop_rate,
            )
            self.stages.append(LongformerStage(embed, blocks, with_cp))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if final_norm else None

    def load_pretrained(self, checkpoint: str, **options) -> None:
        """Loads a released checkpoint, or one of ours."""
        load_vision_longformer_weights(self, checkpoint)

    @property
    def weights_variable(self) -> str:
        return f'VIL_{self.arch.upper()}'

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps of the stages.

        Args:
            x: Images (B, in_channels, H, W), normalized, at least 32 × 32 pixels. A remainder of a patch at the
                bottom or right is dropped,
                so pad to a multiple of 32.

        Returns:
            Maps of `out_indices`, each (B, C, H/stride, W/stride), without a norm (but see `final_norm`).

        Raises:
            TypeError: If the images are not floating-point.
            ValueError: If they are no batch of images or too small.
        """
        if not x.is_floating_point():
            raise TypeError(f'VisionLongformer: needs floating-point images, got {x.dtype}')
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < 32 or not len(x):
            raise ValueError(
                f'VisionLongformer: needs a non-empty batch of images (B, {self.in_channels}, H, W), at least 32 × 32 '
                f'pixels, got {tuple(x.shape)}'
            )
        self.warn_if_not_loaded()
        outs = []
        for i, stage in enumerate(self.stages):
            if i > max(self.out_indices):
                break
            _, x = stage(x)
            out = x
            if i == 3 and self.norm is not None:
                out = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            if i in self.out_indices:
                outs.append(out)
        return tuple(outs)


class LongformerStage(nn.Module):
    """Embeds tokens and passes them through blocks.

    Args:
        embed: Makes the tokens.
        blocks: Blocks of the stage.
        with_cp: Recompute each block in backward.
    """

    def __init__(self, embed: nn.Module, blocks: Sequence[nn.Module], with_cp: bool):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C_in, H, W) to the global tokens (B, g, C) and the map of local tokens (B, C, h, w)."""
        x, height, width = self.embed(x)
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = cp.checkpoint(block, x, height, width, use_reentrant=False)
            else:
                x = block(x, height, width)
        first = x.shape[1] - height * width
        return x[:, :first], x[:, first:].transpose(1, 2).unflatten(2, (height, width))


class TokenEmbed(nn.Module):
    """Embeds patches, puts global tokens before them and adds absolute positions.

    Args:
        in_channels: Channels of the input map.
        dim: Channels of a token.
        patch_size: Side of a patch.
        num_global: Global tokens.
        table_size: Entries of the tables of row and column positions; None for no absolute positions.
        norm: Whether a LayerNorm follows the projection of patches.
        drop: Dropout rate.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        num_global: int,
        table_size: int | None,
        norm: bool,
        drop: float,
    ):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.global_tokens = nn.Parameter(torch.empty(1, num_global, dim)) if num_global else None
        self.row_positions = self.col_positions = self.global_positions = None
        if table_size is not None:
            self.row_positions = nn.Parameter(torch.empty(1, table_size, dim // 2))
            self.col_positions = nn.Parameter(torch.empty(1, table_size, dim // 2))
            self.global_positions = nn.Parameter(torch.empty(1, num_global, dim)) if num_global else None
        self.drop = nn.Dropout(drop)
        for weight in (self.global_tokens, self.row_positions, self.col_positions, self.global_positions):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Maps (B, C_in, H, W) to tokens (B, g + h·w, C), global ones first, and the height and width of the map."""
        x = self.proj(x).permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        x = self.norm(x)
        if self.row_positions is not None and self.col_positions is not None:
            rows = _positions(self.row_positions, height)[:, :, None].expand(-1, -1, width, -1)
            cols = _positions(self.col_positions, width)[:, None].expand(-1, height, -1, -1)
            x = x + torch.cat([rows, cols], -1)
        x = x.flatten(1, 2)
        if self.global_tokens is not None:
            tokens: Tensor = self.global_tokens
            if self.global_positions is not None:
                tokens = tokens + self.global_positions
            x = torch.cat([tokens.to(x.dtype).expand(len(x), -1, -1), x], 1)
        return self.drop(x), height, width


class LongformerBlock(nn.Module):
    """Norm, attention, residual; norm, MLP, residual.

    Args:
        dim: Channels.
        attn: Attention module.
        mlp_ratio: Hidden channels of the MLP relative to `dim`.
        drop: Dropout rate of the MLP.
        drop_path: Probability of dropping a residual branch, per image.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = drop_path

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Maps tokens (B, g + height·width, C) to tokens of the same shape."""
        x = x + self._branch(self.attn(self.norm1(x), height, width))
        return x + self._branch(self.mlp(self.norm2(x)))

    def _branch(self, x: Tensor) -> Tensor:
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            x = x * x.new_empty(len(x), 1, 1).bernoulli_(keep).div_(keep)
        return x


class _Attention(nn.Module):
    """Projections and biases that both kinds of attention share."""

    bias_index: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_global: int,
        relative: bool,
        table_rows: int,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.num_global = num_global
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)
        self.bias_table = self.local_global_bias = self.global_bias = None
        if relative:
            self.bias_table = nn.Parameter(torch.empty(table_rows, num_heads))
            if num_global:
                self.local_global_bias = nn.Parameter(torch.empty(2, num_heads, num_global))
                self.global_bias = nn.Parameter(torch.empty(num_heads, num_global, num_global))
        for weight in (self.qkv.weight, self.proj.weight, self.bias_table, self.local_global_bias, self.global_bias):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)
        for linear in (self.qkv, self.proj):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits (B, N, 3·C) into q, k and v, each (B, N, heads, head_dim)."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)

    def _attend_globally(self, q: Tensor, k: Tensor, v: Tensor, local: int) -> Tensor:
        """Attends from the global tokens (B, g, heads, head_dim) to all g + `local` tokens; returns (B, g, C)."""
        bias = None
        if self.local_global_bias is not None and self.global_bias is not None:
            to_local = self.local_global_bias[0][..., None].expand(-1, -1, local)
            bias = torch.cat([self.global_bias, to_local], -1).to(q.dtype)
        return self._attend(q, k, v, bias)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, bias, self.attn_drop if self.training else 0.0)
        return out.transpose(1, 2).flatten(2)


class SlidingChunkAttention(_Attention):
    """Attention of local tokens to the global ones and to the 3 × 3 chunks around them, and of global tokens to all.

    Args:
        dim: Channels.
        window_size: Side of a chunk, in tokens.
        pattern: See `VisionLongformer`.
        neighbors: See `VisionLongformer`.
        share_global: See `VisionLongformer`.
        **kwargs: Arguments of both kinds of attention.
    """

    def __init__(self, dim: int, window_size: int, pattern: str, neighbors: str, share_global: bool, **kwargs):
        super().__init__(dim, table_rows=(4 * window_size - 1) ** 2, **kwargs)
        self.window_size = window_size
        self.pattern = pattern
        self.neighbors = neighbors
        self.qkv_global = self.proj_global = None
        if self.num_global and not share_global:
            self.qkv_global = nn.Linear(dim, 3 * dim, bias=self.qkv.bias is not None)
            self.proj_global = nn.Linear(dim, dim)
            for mine, other in ((self.qkv_global, self.qkv), (self.proj_global, self.proj)):
                mine.load_state_dict(other.state_dict())
        if self.bias_table is not None:
            self.register_buffer('bias_index', relative_index(window_size, 3 * window_size), persistent=False)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Maps tokens (B, g + height·width, C) to tokens of the same shape."""
        g = self.num_global
        q, k, v = self._heads(self.qkv(x))
        local_q, local_k, local_v = (one[:, g:].unflatten(1, (height, width)) for one in (q, k, v))
        out = sliding_chunk_attention(
            local_q,
            local_k,
            local_v,
            k[:, :g],
            v[:, :g],
            self._bias(),
            chunk_size=self.window_size,
            pattern=self.pattern,
            neighbors=self._neighbors(),
            dropout_p=self.attn_drop if self.training else 0.0,
        )
        out = self.proj(out.flatten(3).flatten(1, 2))
        if g:
            if self.qkv_global is not None:
                q, k, v = self._heads(self.qkv_global(x))
            from_global = self._attend_globally(q[:, :g], k, v, height * width)
            out = torch.cat([(self.proj_global or self.proj)(from_global), out], 1)
        return self.proj_drop(out)

    def _neighbors(self) -> tuple[tuple[int, int], ...] | None:
        """Returns the chunks that are seen beside the own one; None for all."""
        if self.neighbors == 'random' and self.training:
            return (random.choice(NEIGHBORS),)  # one for the whole batch
        return () if self.neighbors == 'none' else None

    def _bias(self) -> Tensor | None:
        """Returns the local queries' bias (heads, window_size², g + 9·window_size²)."""
        if self.bias_table is None:
            return None
        bias = self.bias_table[self.bias_index].permute(2, 0, 1)
        if self.local_global_bias is not None:
            to_global = self.local_global_bias[1][:, None].expand(-1, bias.shape[1], -1)
            bias = torch.cat([to_global, bias], -1)
        return bias


class FullAttention(_Attention):
    """Attention of all tokens to all, as in the last stages of the classifiers.

    Args:
        dim: Channels.
        map_size: Side of the map, in tokens, that relative positions are for.
        **kwargs: Arguments of both kinds of attention.
    """

    def __init__(self, dim: int, map_size: int, **kwargs):
        super().__init__(dim, table_rows=(2 * map_size - 1) ** 2, **kwargs)
        self.map_size = map_size
        if self.bias_table is not None:
            self.register_buffer('bias_index', relative_index(map_size, map_size), persistent=False)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Maps tokens (B, g + height·width, C) to tokens of the same shape."""
        q, k, v = self._heads(self.qkv(x))
        return self.proj_drop(self.proj(self._attend(q, k, v, self._bias(height, width))))

    def _bias(self, height: int, width: int) -> Tensor | None:
        """Returns the bias (heads, g + height·width, g + height·width)."""
        if self.bias_table is None:
            return None
        if (height, width) != (self.map_size, self.map_size):
            raise ValueError(
                'VisionLongformer: full attention with relative positions needs a map of '
                f'{self.map_size} × {self.map_size} tokens, as img_size says, got {height} × {width}; '
                "use attention='sparse' or positions='absolute'"
            )
        bias = self.bias_table[self.bias_index].permute(2, 0, 1)
        if self.local_global_bias is not None and self.global_bias is not None:
            local = height * width
            to_local = self.local_global_bias[0][..., None].expand(-1, -1, local)
            to_global = self.local_global_bias[1][:, None].expand(-1, local, -1)
            bias = torch.cat([torch.cat([self.global_bias, to_local], -1), torch.cat([to_global, bias], -1)], 1)
        return bias


def _positions(table: Tensor, length: int) -> Tensor:
    """Returns the first entries of a table of positions (1, n, C), or interpolates it to more than there are."""
    if length <= table.shape[1]:
        return table[:, :length]
    return F.interpolate(table.transpose(1, 2), length, mode='linear', align_corners=False).transpose(1, 2)


def _arch(arch: str | dict, archs: dict[str, dict]) -> dict:
    if isinstance(arch, str):
        check_choice('VisionLongformer', 'arch', arch, tuple(archs))
        return archs[arch]
    if not isinstance(arch, dict) or set(arch) != {'embed_dims', 'depths', 'num_heads'}:
        raise ConfigError(
            f'VisionLongformer: arch must be one of {", ".join(map(repr, archs))} or '
            f'dict(embed_dims=…, depths=…, num_heads=…), got {arch!r}'
        )
    for name in ('embed_dims', 'depths', 'num_heads'):
        _check_entries(f'arch.{name}', arch[name], lambda value: isinstance(value, int) and value > 0)
    for i, (dim, heads) in enumerate(zip(arch['embed_dims'], arch['num_heads'])):
        if dim % heads:
            raise ConfigError(
                f'VisionLongformer: arch.num_heads[{i}]={heads} does not divide the {dim} channels of stage {i}'
            )
    return arch


def _check_entries(name: str, values: Sequence, is_valid: Callable[[Any], bool]) -> None:
    check_per_stage('VisionLongformer', name, values)
    for i, value in enumerate(values):
        if not is_valid(value):
            raise ConfigError(f'VisionLongformer: {name}[{i}] is not valid, got {value!r}')
