from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmengine.registry import MODELS
from torch import Tensor

from mmfocal.errors import ConfigError
from mmfocal.models.conv_stem import ConvStem
from mmfocal.models.focal_attention import FocalAttention, may_differ
from mmfocal.models.mlp import Mlp
from mmfocal.models.pretrained import PretrainedBackbone, check_choice, check_per_stage, parse_out_indices
from mmfocal.ops.focal_attention import BACKENDS, Layout
from mmfocal.weights.backbone import load_backbone_weights

PerStage = Sequence[int]


@MODELS.register_module()
class FocalTransformer(PretrainedBackbone):
    """Focal Transformer backbone for dense prediction, https://arxiv.org/abs/2107.00641.

    Args:
        arch: 'tiny', 'small', 'base', 'large', or dict(embed_dims=…, depths=…, num_heads=…): channels of the first
            stage, and the number of blocks and of heads, one per stage. Defaults to 'tiny'.
        in_channels: Channels of the images. Defaults to 3.
        window_size: Side of an attention window, in tokens; one value, or one per stage. Defaults to 7.
        expand_sizes: Tokens that the fine level reaches beyond each side of a window, one per stage. The released
            classifiers have (3, 3, 3, 0). Defaults to (3, 3, 3, 3).
        focal_levels: 1 for the fine level alone, 2 for one pooled level more, …; one per stage.
            Defaults to (2, 2, 2, 2).
        focal_windows: Side of the first pooled level's region, in pooled tokens, odd, one per stage.
            Defaults to (7, 5, 3, 1).
        focal_pool: How sub-windows are pooled: 'fc', with learned weights, or 'mean'. Defaults to 'fc'.
        border: What the fine level sees beyond the map: 'wrap', its opposite edge, as in the released code; 'mask',
            nothing. Defaults to 'wrap'.
        use_shift: Whether odd blocks shift their windows as Swin does (the paper's Table 9). Defaults to False.
        mlp_ratio: Hidden channels of the MLP over its channels. Defaults to 4.
        qkv_bias: Whether the q, k, v projection has a bias. Defaults to True.
        drop_rate: Dropout after the stem, after the attention's projection, and in the MLP. Defaults to 0.
        attn_drop_rate: Dropout on the attention weights. Defaults to 0.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0. Defaults to 0.2.
        conv_embed: Whether stem (7×7) and downsampling (3×3) are overlapping convolutions. Defaults to False.
        stem_blocks: Number of residual blocks of a stem of 3×3 convolutions (`ConvStem`), which learns faster from
            scratch; None for a stem of one convolution, as in the paper. Defaults to None.
        layer_scale: Initial value of a block's two per-channel gains; None for no gains. Defaults to None.
        downsample: What halves the map between two stages: 'conv', a convolution, or 'merge', Swin's merging of patches
            (not with conv_embed or pre_norm), with which Swin's weights fit exactly. Defaults to 'conv'.
        pre_norm: Whether a GroupNorm(1, C) precedes the convolution of a downsampling. Defaults to False.
        out_indices: The stages, 0 to 3, whose maps are returned, each after a LayerNorm. Defaults to (0, 1, 2, 3).
        frozen_stages: −1: none; 0: the stem is frozen; i: stages up to the i-th as well. Defaults to −1.
        with_cp: Whether blocks are recomputed in backward, to save memory. Defaults to False.
        init: How attention starts without a checkpoint: 'mean', pooling with the mean and all position tables from
            N(0, 0.02); 'released', as the released code: pooling from N(0, 0.02), the window's table at zero.
            Defaults to 'mean'.
        attention_backend: 'auto', or a backend of `mmfocal.ops.focal_attention`. Defaults to 'auto'.
        init_cfg: dict(type='Pretrained', checkpoint=FILE_OR_URL) loads a released Focal checkpoint, one of ours, or a
            Swin Transformer's as a start; checkpoint='none' trains from scratch. `interpolate=True` interpolates tables
            of another window size; `new_bias` is the initial bias of the keys that Swin does not have. A list may name
            other initializers of MMEngine too. Defaults to None.

    Raises:
        ConfigError: If an argument cannot work.
    """

    init_cfg: dict | list[dict] | None
    loading_options = ('interpolate', 'new_bias')
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
        window_size: int | PerStage = 7,
        expand_sizes: PerStage = (3, 3, 3, 3),
        focal_levels: PerStage = (2, 2, 2, 2),
        focal_windows: PerStage = (7, 5, 3, 1),
        focal_pool: str = 'fc',
        border: str = 'wrap',
        use_shift: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        conv_embed: bool = False,
        stem_blocks: int | None = None,
        layer_scale: float | None = None,
        downsample: str = 'conv',
        pre_norm: bool = False,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init: str = 'mean',
        attention_backend: str = 'auto',
        init_cfg: dict | Sequence[dict] | None = None,
    ):
        super().__init__(init_cfg)
        embed_dims, depths, num_heads = _parse_arch(arch, self.archs)
        layouts = _make_layouts(window_size, expand_sizes, focal_levels, focal_windows, border)
        out_indices = parse_out_indices('FocalTransformer', out_indices)
        check_choice('FocalTransformer', 'focal_pool', focal_pool, ('fc', 'mean'))
        check_choice('FocalTransformer', 'downsample', downsample, ('conv', 'merge'))
        check_choice('FocalTransformer', 'init', init, ('mean', 'released'))
        if downsample == 'merge' and (conv_embed or pre_norm):
            raise ConfigError("FocalTransformer: downsample='merge' excludes conv_embed and pre_norm; drop them")
        if stem_blocks is not None and (isinstance(stem_blocks, bool) or stem_blocks not in range(100)):
            raise ConfigError(f'FocalTransformer: stem_blocks must be None or an integer from 0, got {stem_blocks!r}')
        check_choice('FocalTransformer', 'attention_backend', attention_backend, ('auto', *BACKENDS))
        check_choice('FocalTransformer', 'frozen_stages', frozen_stages, range(-1, 5))
        for name, rate in dict(
            drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate
        ).items():
            if not 0 <= rate < 1:
                raise ConfigError(f'FocalTransformer: {name} must be in [0, 1), got {rate!r}')
        self.arch = arch if isinstance(arch, str) else 'custom'
        self.in_channels = in_channels
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages

        dims = [embed_dims * 2**i for i in range(4)]
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        kernel_sizes, paddings = ((7, 3), (2, 1)) if conv_embed else ((4, 2), (0, 0))  # of the stem, of a downsampling
        self.patch_embed: PatchEmbed | ConvStem = (
            PatchEmbed(in_channels, dims[0], kernel_sizes[0], stride=4, padding=paddings[0])
            if stem_blocks is None
            else ConvStem(in_channels, dims[0], stem_blocks)
        )
        self.drop_after_embed = nn.Dropout(drop_rate)
        self.stages = nn.ModuleList()
        for i in range(4):
            blocks = [
                FocalBlock(
                    dims[i],
                    num_heads[i],
                    layouts[i],
                    shifts=use_shift and j % 2 == 1,
                    focal_pool=focal_pool,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=next(drop_paths),
                    layer_scale=layer_scale,
                    backend=attention_backend,
                )
                for j in range(depths[i])
            ]
            down: nn.Module | None = None
            if i < 3 and downsample == 'merge':
                down = PatchMerging(dims[i], dims[i + 1])
            elif i < 3:
                down = PatchEmbed(dims[i], dims[i + 1], kernel_sizes[1], 2, paddings[1], pre_norm)
            self.stages.append(FocalStage(blocks, down, with_cp))
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(dims[i]))
        if init == 'released':
            for module in self.modules():
                if isinstance(module, FocalAttention):
                    module.reset_parameters(released=True)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps.

        Args:
            x: Images, (B, in_channels, H, W), floating point, of any size.

        Returns:
            For each stage i of `out_indices` a map (B, embed_dims·2^i, h, w); strides are 4, 8, 16, 32.

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
        self.warn_if_not_loaded()
        x = self.drop_after_embed(self.patch_embed(x.permute(0, 2, 3, 1)))
        outs = []
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x, down = stage(x, downsample=i < self.out_indices[-1])
            if i in self.out_indices:
                outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous())
            x = down
        return tuple(outs)

    def load_pretrained(self, checkpoint: str, **options) -> None:
        """Loads a checkpoint of any kind that `load_backbone_weights` knows."""
        load_backbone_weights(self, checkpoint, **options)

    @property
    def weights_variable(self) -> str:
        return f'FOCAL_{self.arch.upper()}{"_CONV" if self.patch_embed.kernel_size == 7 else ""}'

    def train(self, mode: bool = True) -> 'FocalTransformer':
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_embed] if self.frozen_stages >= 0 else []
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


class PatchEmbed(nn.Module):
    """The stem, and the downsampling between two stages: a strided convolution, then LayerNorm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the convolution's kernel.
        stride: Stride of the convolution.
        padding: Padding of the convolution on all sides. If 0, the input is padded at its bottom and right so that
            none of it is lost.
        pre_norm: Whether a GroupNorm(1, in_channels) comes first. Defaults to False.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        pre_norm: bool = False,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.pre_norm = nn.GroupNorm(1, in_channels) if pre_norm else nn.Identity()
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) → (B, h, w, out_channels)."""
        x = self.pre_norm(x.permute(0, 3, 1, 2))
        if self.padding == 0:
            x = _pad_to(x, *((side + self.stride - 1) // self.stride * self.stride for side in x.shape[2:]))
        else:
            x = _pad_to(x, *(max(side, self.kernel_size - 2 * self.padding) for side in x.shape[2:]))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Swin's downsampling: a LayerNorm and a linear layer on each 2×2 tokens, https://arxiv.org/abs/2103.14030.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) → (B, ⌈H/2⌉, ⌈W/2⌉, out_channels); zeros at the bottom and right make sides even."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h, row, w, column, C)
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class FocalStage(nn.Module):
    """Blocks at one resolution, then the downsampling to the next.

    Args:
        blocks: The blocks.
        downsample: The downsampling; None in the last stage.
        with_cp: Whether blocks are recomputed in backward.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, with_cp: bool):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor, downsample: bool) -> tuple[Tensor, Tensor | None]:
        """(B, h, w, C) → the output (B, h, w, C), and if `downsample` the next stage's input (B, h/2, w/2, 2C)."""
        for block in self.blocks:
            x = cp.checkpoint(block, x, use_reentrant=False) if self.with_cp and torch.is_grad_enabled() else block(x)
        return x, self.downsample(x) if downsample and self.downsample is not None else None


class FocalBlock(nn.Module):
    """Norm, focal attention, residual; norm, MLP, residual (the paper's Figure 2).

    Args:
        dim: Channels.
        num_heads: Attention heads.
        layout: Windows, ring and pooled levels.
        shifts: Whether windows are shifted by half a window.
        focal_pool: 'fc' or 'mean'.
        mlp_ratio: Hidden channels of the MLP over `dim`.
        qkv_bias: Whether the q, k, v projection has a bias.
        drop: Dropout of projections.
        attn_drop: Dropout of attention weights.
        drop_path: Probability with which an image of a batch skips a residual branch in training.
        layer_scale: Initial value of the branches' per-channel gains; None for no gains.
        backend: Backend of the attention operator.
    """

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

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
        x = x + self._branch(self.attn(self.norm1(x)), self.gamma_1)
        return x + self._branch(self.mlp(self.norm2(x)), self.gamma_2)

    def _branch(self, x: Tensor, gain: Tensor | None) -> Tensor:
        """Returns a residual branch times its gain, and in training without some images (stochastic depth)."""
        if gain is not None:
            x = x * gain
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            x = x * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep)
        return x


def _pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Pads (B, C, H, W) with zeros at the bottom and right."""
    if may_differ(x.shape[2:], (height, width)):
        return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    return x


def _parse_arch(arch: str | dict, archs: dict[str, dict]) -> tuple[int, PerStage, PerStage]:
    """Returns embed_dims, depths and num_heads."""
    if isinstance(arch, str):
        check_choice('FocalTransformer', 'arch', arch, tuple(archs))
        arch = archs[arch]
    elif not isinstance(arch, dict) or set(arch) != {'embed_dims', 'depths', 'num_heads'}:
        raise ConfigError(
            f'FocalTransformer: arch must be one of {", ".join(map(repr, archs))} or '
            f'dict(embed_dims=…, depths=…, num_heads=…), got {arch!r}'
        )
    embed_dims, depths, num_heads = arch['embed_dims'], arch['depths'], arch['num_heads']
    _check_integer('arch.embed_dims', embed_dims)
    check_per_stage('FocalTransformer', 'arch.depths', depths)
    check_per_stage('FocalTransformer', 'arch.num_heads', num_heads)
    for i, (depth, heads) in enumerate(zip(depths, num_heads)):
        _check_integer(f'arch.depths[{i}]', depth)
        _check_integer(f'arch.num_heads[{i}]', heads)
        if embed_dims * 2**i % heads:
            raise ConfigError(
                f'FocalTransformer: arch.num_heads[{i}]={heads} does not divide the {embed_dims * 2**i} channels '
                f'of stage {i}'
            )
    return embed_dims, depths, num_heads


def _make_layouts(
    window_size: int | PerStage, expand_sizes: PerStage, focal_levels: PerStage, focal_windows: PerStage, border: str
) -> list[Layout]:
    """Returns the layout of each stage."""
    window_sizes = (window_size,) * 4 if isinstance(window_size, int) else window_size
    check_per_stage('FocalTransformer', 'window_size', window_sizes)
    check_per_stage('FocalTransformer', 'expand_sizes', expand_sizes)
    check_per_stage('FocalTransformer', 'focal_levels', focal_levels)
    check_per_stage('FocalTransformer', 'focal_windows', focal_windows)
    layouts = []
    for i in range(4):
        _check_integer(f'focal_levels[{i}]', focal_levels[i])
        try:
            layouts.append(Layout(window_sizes[i], expand_sizes[i], focal_windows[i], focal_levels[i] - 1, border))
        except ValueError as error:
            raise ConfigError(f'FocalTransformer: stage {i}: {error}') from None
    return layouts


def _check_integer(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f'FocalTransformer: {name} must be a positive integer, got {value!r}')
