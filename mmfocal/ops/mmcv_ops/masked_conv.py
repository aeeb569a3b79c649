"""Columns of a convolution that is computed at some positions only (guided anchoring)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fills the columns of the positions.

    Args:
        im: (1, C, H, W).
        mask_h_idx: Rows (M,) of the positions in the output.
        mask_w_idx: Their columns.
        col: (C * kernel_h * kernel_w, M).
        kernel_h: Height of the kernel.
        kernel_w: Its width.
        pad_h: Padding above and below.
        pad_w: Padding left and right.
    """
    padded = F.pad(im, [pad_w, pad_w, pad_h, pad_h])[0]
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes values (channels, M) to their positions of an image (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
