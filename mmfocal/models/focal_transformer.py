from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.models.mlp import Mlp, in_steps, pays_in_steps
from mmfocal.ops.focal_attention import BACKENDS, Layout, focal_attention_qkvpacked, relative_index
from mmfocal.ops.focal_attention.functional import check_layout
from mmfocal.weights.backbone import load_backbone_weights


@MODELS.register_module()
class FocalTransformer(BaseModule):
    """Focal Transformer backbone for dense prediction, https://arxiv.org/abs/2107.00641.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large', or dict(embed_dims=…, depths=…, num_heads=…): channels of the first
            stage, and for each of the four stages the number of blocks and of heads. Defaults to 'tiny'.
        in_channels (int): Channels of the image. Defaults to 3.
        window_size (int | Sequence[int]): Side of an attention window, in tokens; one value, or one a stage. Defaults to 7.
        expand_sizes (Sequence[int]): Tokens that the fine level reaches beyond the window's sides, one a stage. The released
            classifiers have (3, 3, 3, 0). Defaults to (3, 3, 3, 3).
        focal_levels (Sequence[int]): 1 for the fine level alone, 2 for one pooled level more, …; one a stage.
            Defaults to (2, 2, 2, 2).
        focal_windows (Sequence[int]): Side of the first pooled level's region, in pooled tokens, odd; one a stage.
            Defaults to (7, 5, 3, 1).
        focal_pool (str): 'fc', sub-windows are pooled with learned weights, or 'mean'. Defaults to 'fc'.
        border (str): What the fine level sees beyond the map: 'wrap', the opposite edge, as the released weights were trained;
            'mask', nothing. Defaults to 'wrap'.
        use_shift (bool): Odd blocks shift their windows as Swin does (the paper's Table 9). Defaults to False.
        mlp_ratio (float): Hidden channels of the MLP over its channels. Defaults to 4.
        qkv_bias (bool): Whether the q, k, v projection has a bias. Defaults to True.
        drop_rate (float): Dropout after the stem, the attention's projection and in the MLP. Defaults to 0.
        attn_drop_rate (float): Dropout on the attention weights. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block; it grows linearly from 0. Defaults to 0.2.
        conv_embed (bool): Overlapping convolutions for stem (7×7) and downsampling (3×3). Defaults to False.
        layer_scale (float, optional): Initial value of the two per-channel gains of a block. Defaults to None, no gains.
        pre_norm (bool): GroupNorm(1, C) before a downsampling's convolution. Defaults to False.
        out_indices (Sequence[int]): The stages, 0–3, whose maps are returned, each after a LayerNorm. Defaults to (0, 1, 2, 3).
        frozen_stages (int): −1: none; 0: the stem is frozen; i: stages up to the i-th as well. Defaults to -1.
        with_cp (bool): Recompute each block in backward, to save memory. Defaults to False.
        attention_backend (str): 'auto', or a backend of `mmfocal.ops.focal_attention`. Defaults to 'auto'.
        init_cfg (dict, optional): dict(type='Pretrained', checkpoint=FILE_OR_URL) loads a released Focal checkpoint or one of
            ours; checkpoint='none' starts from scratch. Defaults to None.

    Raises:
        ConfigError: If an argument cannot work.
    """

    archs = {
        'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
        'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    }

    def __init__(
        self,
        *,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        window_size: int | Sequence[int] = 7,
        expand_sizes: Sequence[int] = (3, 3, 3, 3),
        focal_levels: Sequence[int] = (2, 2, 2, 2),
        focal_windows: Sequence[int] = (7, 5, 3, 1),
        focal_pool: str = 'fc',
        border: str = 'wrap',
        use_shift: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        conv_embed: bool = False,
        layer_scale: float | None = None,
        pre_norm: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        attention_backend: str = 'auto',
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        embed_dims, depths, num_heads = _check_arch(arch, self.archs)
        window_sizes = (window_size,) * 4 if isinstance(window_size, int) else window_size
        for name, value in (
            ('window_size', window_sizes),
            ('expand_sizes', expand_sizes),
            ('focal_levels', focal_levels),
            ('focal_windows', focal_windows),
        ):
            _check_per_stage(name, value)
        if any(not isinstance(level, int) or level < 1 for level in focal_levels):
            raise ConfigError(
                f'FocalTransformer: focal_levels must be integers of at least 1, got {tuple(focal_levels)}'
            )
        _check_choice('focal_pool', focal_pool, ('fc', 'mean'))
        _check_choice('attention_backend', attention_backend, ('auto', *BACKENDS))
        _check_choice('frozen_stages', frozen_stages, range(-1, 5))
        for name, rate in (
            ('drop_rate', drop_rate),
            ('attn_drop_rate', attn_drop_rate),
            ('drop_path_rate', drop_path_rate),
        ):
            if not 0 <= rate < 1:
                raise ConfigError(f'FocalTransformer: {name} must be in [0, 1), got {rate!r}')
        if not out_indices or sorted(set(out_indices) & set(range(4))) != list(out_indices):
            raise ConfigError(
                'FocalTransformer: out_indices must list stages from 0 to 3 in increasing order, '
                f'got {tuple(out_indices)}'
            )
        self.arch = arch if isinstance(arch, str) else 'custom'
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages

        dims = [embed_dims * 2**i for i in range(4)]
        self.patch_embed = PatchEmbed(
            in_channels, dims[0], kernel_size=7 if conv_embed else 4, stride=4, padding=2 if conv_embed else 0
        )
        self.drop_after_embed = nn.Dropout(drop_rate)
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self.stages = nn.ModuleList()
        for i in range(4):
            layout = Layout(window_sizes[i], expand_sizes[i], focal_windows[i], focal_levels[i] - 1, border)
            try:
                check_layout(layout)
            except ValueError as error:
                raise ConfigError(f'FocalTransformer: stage {i}: {error}') from None
            blocks = [
                FocalBlock(
                    dims[i],
                    num_heads[i],
                    layout,
                    shifts=use_shift and j % 2 == 1,
                    focal_pool=focal_pool,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=drop_paths[sum(depths[:i]) + j],
                    layer_scale=layer_scale,
                    backend=attention_backend,
                )
                for j in range(depths[i])
            ]
            downsample = None
            if i < 3:
                downsample = PatchEmbed(
                    dims[i],
                    dims[i + 1],
                    kernel_size=3 if conv_embed else 2,
                    stride=2,
                    padding=1 if conv_embed else 0,
                    pre_norm=pre_norm,
                )
            self.stages.append(FocalStage(blocks, downsample, with_cp))
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(dims[i]))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps.

        Args:
            x (Tensor): Images, (B, in_channels, H, W), floating point, of any size.

        Returns:
            Tuple[Tensor, ...]: For each stage i of `out_indices` (B, embed_dims·2^i, h, w); strides 4, 8, 16, 32.

        Raises:
            TypeError: If the images are not floating point.
            ValueError: If they are not (B, in_channels, H, W) with at least one image of at least one pixel.
        """
        if not x.is_floating_point():
            raise TypeError(
                f'FocalTransformer takes floating-point images, got {x.dtype}: convert and normalise them first'
            )
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.numel() == 0:
            raise ValueError(
                f'FocalTransformer takes a non-empty batch of images (B, {self.in_channels}, H, W), '
                f'got {tuple(x.shape)}'
            )
        x = self.drop_after_embed(self.patch_embed(x.permute(0, 2, 3, 1)))
        outs = []
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x, down = stage(x, downsample=i < self.out_indices[-1])
            if i in self.out_indices:
                outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous())
            x = down
        return tuple(outs)

    def init_weights(self) -> None:
        """Loads the checkpoint that `init_cfg` names.

        Raises:
            ConfigError: If the checkpoint's name is empty.
            CheckpointError: If the file cannot be read or is of another model.
        """
        if not isinstance(self.init_cfg, dict) or self.init_cfg.get('type') != 'Pretrained':
            super().init_weights()
            return
        checkpoint = self.init_cfg.get('checkpoint')
        if checkpoint in (None, '', 'unset'):  # 'unset': what configs say where the environment variable is not there
            name = f'FOCAL_{self.arch.upper()}'
            raise ConfigError(
                f'no weights for the Focal-{self.arch} backbone: set the environment variable {name} to the path or URL '
                f'of a checkpoint, or to none ({name}=none) to train from scratch'
            )
        if checkpoint != 'none':
            load_backbone_weights(self, checkpoint)
        self._is_init = True

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self):
        frozen = [self.patch_embed, self.drop_after_embed] if self.frozen_stages >= 0 else []
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
        for module in frozen:
            module.training and module.eval()
            module.requires_grad_(False)


class PatchEmbed(nn.Module):
    """The stem, and the downsampling between two stages: a strided convolution, then LayerNorm.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the convolution's kernel.
        stride (int): Its stride.
        padding (int): Its padding on all sides. If 0, the input is padded at its bottom and right so that none of it is lost.
        pre_norm (bool): GroupNorm(1, in_channels) first. Defaults to False.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, pre_norm: bool = False
    ):
        super().__init__()
        self.pre_norm = nn.GroupNorm(1, in_channels) if pre_norm else nn.Identity()
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) → (B, h, w, out_channels)."""
        x = self.pre_norm(x.permute(0, 3, 1, 2))
        (kernel, _), (stride, _), (padding, _) = self.proj.kernel_size, self.proj.stride, self.proj.padding
        if padding == 0:
            x = _pad_to(x, *(-(-side // stride) * stride for side in x.shape[2:]))
        else:
            x = _pad_to(x, *(max(side, kernel - 2 * padding) for side in x.shape[2:]))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class FocalStage(nn.Module):
    """Blocks at one resolution, then the way down to the next.

    Args:
        blocks (Sequence[nn.Module]): The blocks.
        downsample (nn.Module, optional): What follows them; None in the last stage.
        with_cp (bool): Recompute each block in backward.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, with_cp: bool):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor, downsample: bool) -> tuple[Tensor, Tensor | None]:
        """(B, h, w, C) → the stage's output (B, h, w, C), and the next stage's input (B, h/2, w/2, 2C) if `downsample`."""
        for block in self.blocks:
            x = cp.checkpoint(block, x, use_reentrant=False) if self.with_cp and torch.is_grad_enabled() else block(x)
        return x, self.downsample(x) if downsample else None


class FocalBlock(nn.Module):
    """Norm, focal attention, residual; norm, MLP, residual.

    Args:
        dim (int): Channels.
        num_heads (int): Attention heads.
        layout (Layout): Windows, ring and pooled levels.
        shifts (bool): Shift the windows by half a window.
        focal_pool (str): 'fc' or 'mean'.
        mlp_ratio (float): Hidden channels of the MLP over `dim`.
        qkv_bias (bool): Whether the q, k, v projection has a bias.
        drop (float): Dropout of projections.
        attn_drop (float): Dropout of attention weights.
        drop_path (float): Probability of leaving out a residual branch, for each image of a batch.
        layer_scale (float, optional): Initial value of the branches' gains; None for no gains.
        backend (str): Backend of the attention operator.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        layout: Layout,
        shifts: bool,
        focal_pool: str,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        layer_scale: float | None,
        backend: str,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = FocalAttention(dim, num_heads, layout, shifts, focal_pool, qkv_bias, drop, attn_drop, backend)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = drop_path
        for name in ('gamma_1', 'gamma_2'):
            gain = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.register_parameter(name, gain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) → (B, h, w, C)."""
        attended = self.attn(self.norm1(x))
        if torch.is_grad_enabled() or not pays_in_steps(x):
            return torch.add(*self._after_attention(x, attended))
        out = torch.empty_like(x)
        for *parts, out_part in in_steps(self.mlp.fc1.out_features, 1, x, attended, out):  # some rows at a time
            torch.add(*self._after_attention(*parts), out=out_part)
        return out

    def _after_attention(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """The two summands of the block's output."""
        x = x + self._branch(self.attn.project(attended), self.gamma_1)
        return x, self._branch(self.mlp(self.norm2(x)), self.gamma_2)

    def _branch(self, x: Tensor, gain: Tensor | None) -> Tensor:
        if gain is not None:
            x = x * gain
        if self.training and self.drop_path:  # stochastic depth
            keep = 1 - self.drop_path
            x = x * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep)
        return x


class FocalAttention(nn.Module):
    """Focal self-attention with its projections, pooling and biases, for maps of any size; see `FocalBlock` for the arguments."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        layout: Layout,
        shifts: bool,
        focal_pool: str,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        backend: str,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.layout = layout
        self.shift = layout.window_size // 2 if shifts else 0
        self.attn_drop = attn_drop
        self.backend = backend
        ws = layout.window_size
        regions = [layout.region(k) for k in range(layout.pooled_levels)]

        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)
        self.pool_layers = nn.ModuleList()
        if focal_pool == 'fc':
            self.pool_layers.extend(SubWindowPool(ws // 2**k) for k in range(layout.pooled_levels))
        self.window_bias_table = nn.Parameter(torch.empty(num_heads, (2 * ws - 1) ** 2))
        self.ring_bias_table = nn.Parameter(torch.empty(num_heads, ws**2, layout.ring)) if layout.ring else None
        self.pooled_bias_tables = nn.ParameterList(torch.empty(num_heads, (ws + r - 1) ** 2) for r in regions)
        for level, region in enumerate([ws] + regions):
            self.register_buffer(f'bias_index{level}', relative_index(ws, region), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (
            self.qkv.weight,
            self.proj.weight,
            self.window_bias_table,
            self.ring_bias_table,
            *self.pooled_bias_tables,
        ):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)
        for linear in (self.qkv, self.proj):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) → (B, h, w, C): what the heads attended to, side by side; `project` comes after it."""
        h, w, dim = x.shape[1:]
        ws, heads = self.layout.window_size, self.num_heads
        height, width = -(-h // ws) * ws, -(-w // ws) * ws
        if (height, width) != (h, w):
            x = F.pad(x, (0, 0, 0, width - w, 0, height - h))
        shift = self.shift if min(height, width) > ws else 0
        if shift:
            x = x.roll((-shift, -shift), (1, 2))

        qkv = self.qkv(x).unflatten(-1, (3, heads, dim // heads))  # (B, height, width, 3, heads, head_dim)
        pooled_kv = []
        for level in range(self.layout.pooled_levels):
            pooled = self.qkv(self._pool(x, level)).unflatten(-1, (3, heads, dim // heads))
            pooled_kv.append(pooled[:, :, :, 1:])
        x = focal_attention_qkvpacked(
            qkv,
            pooled_kv,
            self._bias(),
            window_size=ws,
            expand_size=self.layout.expand_size,
            focal_window=self.layout.focal_window,
            border=self.layout.border,
            shifted=shift > 0,
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )

        x = x.flatten(3)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :h, :w]

    def project(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        return self.proj_drop(self.proj(x))

    def _pool(self, x: Tensor, level: int) -> Tensor:
        """(B, H, W, C) → (B, H/window_size·2^level, W/window_size·2^level, C): one token for each sub-window."""
        side = self.layout.window_size // 2**level
        rows, cols = self.layout.pooled_size(x.shape[1], x.shape[2], level)
        top, left = (x.shape[1] - rows * side) // 2, (x.shape[2] - cols * side) // 2
        x = x[:, top : top + rows * side, left : left + cols * side]
        x = x.unflatten(2, (cols, side)).unflatten(1, (rows, side))  # (B, rows, side, cols, side, C)
        return self.pool_layers[level](x) if self.pool_layers else x.mean((2, 4))

    def _bias(self) -> Tensor:
        """(heads, window_size², keys)."""
        biases = [self.window_bias_table[:, self.bias_index0]]
        if self.ring_bias_table is not None:
            biases.append(self.ring_bias_table)
        for level, table in enumerate(self.pooled_bias_tables, 1):
            biases.append(table[:, getattr(self, f'bias_index{level}')])
        return torch.cat(biases, -1)


class SubWindowPool(nn.Module):
    """Pools sub-windows with learned weights, the same for all channels, which start as the mean.

    Args:
        side (int): Side of a sub-window, in tokens.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.full((1, side**2), 1 / side**2))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, rows, side, cols, side, C) → (B, rows, cols, C)."""
        return torch.einsum('brichj,ij->brch', x.transpose(4, 5), self.weight.view(self.side, self.side)) + self.bias


def _pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Zeros at the bottom and right of (B, C, H, W)."""
    if x.shape[2:] == (height, width):
        return x
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


def _check_arch(arch, archs):
    if isinstance(arch, str):
        _check_choice('arch', arch, tuple(archs))
        arch = archs[arch]
    elif not isinstance(arch, dict) or set(arch) != {'embed_dims', 'depths', 'num_heads'}:
        raise ConfigError(
            f'FocalTransformer: arch must be one of {", ".join(map(repr, archs))} or '
            f'dict(embed_dims=…, depths=…, num_heads=…), got {arch!r}'
        )
    embed_dims, depths, num_heads = arch['embed_dims'], arch['depths'], arch['num_heads']
    _check_per_stage('arch.depths', depths)
    _check_per_stage('arch.num_heads', num_heads)
    for i, (depth, heads) in enumerate(zip(depths, num_heads)):
        if not isinstance(depth, int) or depth < 1:
            raise ConfigError(f'FocalTransformer: arch.depths[{i}] must be a positive integer, got {depth!r}')
        if not isinstance(heads, int) or heads < 1 or embed_dims * 2**i % heads:
            raise ConfigError(
                f'FocalTransformer: arch.num_heads[{i}]={heads!r} does not divide the {embed_dims * 2**i} channels of stage {i}'
            )
    return embed_dims, depths, num_heads


def _check_per_stage(name, value):
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        raise ConfigError(f'FocalTransformer: {name} must have 4 entries, one a stage, got {value!r}')


def _check_choice(name, value, choices):
    if value not in choices:
        raise ConfigError(f'FocalTransformer: {name} must be one of {", ".join(map(repr, choices))}, got {value!r}')
