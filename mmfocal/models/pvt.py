"""PVT of Table 2: MMDetection's backbone with the class token and the norm of the released classifier."""

import torch
from mmdet.models.backbones.pvt import MixFFN, PyramidVisionTransformer, SpatialReductionAttention, pvt_convert
from mmdet.models.layers import PatchEmbed
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.weights import load_checkpoint
from mmfocal.weights.backbone import find_state_dict


@MODELS.register_module()
class PVTClassifier(PyramidVisionTransformer):
    """PVT (https://arxiv.org/abs/2102.12122) for classification: a class token joins the tokens of stage 4.

    Args:
        **kwargs: Arguments of MMDetection's `PyramidVisionTransformer`. `init_cfg=dict(type='Pretrained',
            checkpoint=FILE_OR_URL)` loads a released classifier, its head excepted; None starts as the released code.

    Raises:
        ConfigError: If stage 4 reduces its keys, which a class token does not allow, or has convolutions in its MLP.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.sr_ratios[-1] != 1 or kwargs.get('use_conv_ffn') or not kwargs.get('use_abs_pos_embed', True):
            raise ConfigError(
                'PVTClassifier: needs sr_ratios[3]=1, use_conv_ffn=False and use_abs_pos_embed=True, as PVT v1 has'
            )
        dim = self.embed_dims * self.num_heads[-1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_position = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():  # as released; MMDetection has the 1e-6 of the other norms
            if isinstance(module, PatchEmbed) or isinstance(module, SpatialReductionAttention) and module.sr_ratio > 1:
                module.norm.eps = 1e-5

    def init_weights(self) -> None:
        """Loads what `init_cfg` names, or initializes as the released code: N(0, 0.02), truncated; no biases.

        Raises:
            CheckpointError: If the file is of another model.
        """
        if self.init_cfg is not None:
            self._load(self.init_cfg['checkpoint'])
            return
        super().init_weights()
        for token in (self.cls_token, self.cls_position):
            nn.init.trunc_normal_(token, std=0.02)
        for module in self.modules():
            if isinstance(module, SpatialReductionAttention):
                nn.init.trunc_normal_(module.attn.in_proj_weight, std=0.02)
                if module.sr_ratio > 1:
                    module.sr.reset_parameters()
            elif isinstance(module, PatchEmbed):
                module.projection.reset_parameters()
            elif isinstance(module, MixFFN):
                for layer in module.layers:
                    if isinstance(layer, nn.Conv2d):
                        nn.init.trunc_normal_(layer.weight, std=0.02)

    def _load(self, path: str) -> None:
        weights = find_state_dict(load_checkpoint(path), path)
        if 'pos_embed4' in weights:  # released: MMDetection's conversion, and what it leaves out
            token = ('cls_token', 'norm.weight', 'norm.bias')
            position, positions = weights['pos_embed4'].split([1, weights['pos_embed4'].shape[1] - 1], 1)
            weights = pvt_convert(weights) | {name: weights[name] for name in token if name in weights}
            weights |= {'cls_position': position, 'layers.3.1.0.pos_embed': positions}
        else:
            weights = {name.removeprefix('backbone.'): value for name, value in weights.items()}
        target = self.state_dict()
        for name, value in target.items():
            if name not in weights or weights[name].shape != value.shape:
                found = tuple(weights[name].shape) if name in weights else 'missing'
                raise CheckpointError(
                    f'{path}: does not fit this PVTClassifier: {name} is {found} in the file and {tuple(value.shape)} '
                    'in the model'
                )
        surplus = sorted(name for name in weights.keys() - target.keys() if name.startswith('layers.'))
        if surplus:
            raise CheckpointError(f'{path}: does not fit this PVTClassifier: the model has no {surplus[0]}')
        self.load_state_dict({name: weights[name] for name in target})

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Maps images (B, 3, H, W) to the normalized class token (B, C)."""
        for patch_embed, blocks, _ in self.layers[:-1]:
            x, size = patch_embed(x)
            for block in blocks:
                x = block(x, size)
            x = x.transpose(1, 2).unflatten(2, size)
        patch_embed, (position, *blocks), _ = self.layers[-1]
        x, size = patch_embed(x)
        token = (self.cls_token + self.cls_position).to(x.dtype).expand(len(x), -1, -1)
        x = torch.cat([position.drop(token), position(x, size)], 1)
        for block in blocks:  # without reduction and depth-wise convolutions, a block does not look at the size
            x = block(x, (1, x.shape[1]))
        return (self.norm(x[:, 0]),)
