from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.ops import CornerPool
from torch import Tensor, nn


class CornerPoolPack(nn.Module):
    """The sum of two corner poolings of a feature map, and a shortcut (RepPoints V2, Figure 3).

    Args:
        channels: Channels of input and output.
        modes: Modes of MMCV's `CornerPool`: ('top', 'left') or ('bottom', 'right').
        corner_dim: Channels of the pooled maps.
        first_kernel_size: Kernel size of the convolutions before the poolings.
        kernel_size: Kernel size of the last convolution.
        norm_cfg: Norm layer of every convolution.
    """

    def __init__(
        self,
        channels: int,
        modes: tuple[str, str],
        corner_dim: int,
        first_kernel_size: int,
        kernel_size: int,
        norm_cfg: dict,
    ):
        super().__init__()
        self.p1_conv1 = ConvModule(
            channels, corner_dim, first_kernel_size, padding=first_kernel_size // 2, norm_cfg=norm_cfg
        )
        self.p2_conv1 = ConvModule(
            channels, corner_dim, first_kernel_size, padding=first_kernel_size // 2, norm_cfg=norm_cfg
        )
        self.p_conv1 = nn.Conv2d(corner_dim, channels, 3, padding=1, bias=False)
        self.p_gn1 = build_norm_layer(norm_cfg, channels)[1]
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.gn1 = build_norm_layer(norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = ConvModule(channels, channels, kernel_size, padding=kernel_size // 2, norm_cfg=norm_cfg)
        self.pool1, self.pool2 = (CornerPool(mode) for mode in modes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) → (B, channels, H, W)."""
        pooled = self.pool1(self.p1_conv1(x)) + self.pool2(self.p2_conv1(x))
        return self.conv2(self.relu(self.p_gn1(self.p_conv1(pooled)) + self.gn1(self.conv1(x))))
