"""Attention masks of PSANet (Zhao et al. 2018): maps over relative positions become maps over positions."""

import torch
from torch import Tensor


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fills the masks over positions.

    Args:
        input: (B, h_mask * w_mask, H, W).
        output: (B, H * W, H, W).
        psa_type: 0 for `collect`, whose channels are the other positions; 1 for `distribute`, the transposed.
        num_: B.
        h_feature: H.
        w_feature: W.
        h_mask: Height of the window of relative positions.
        w_mask: Its width.
        half_h_mask: Row of the window's centre.
        half_w_mask: Its column.
    """
    index, valid = other_positions(input.device, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    maps = input.flatten(2).transpose(1, 2)  # (B, positions, window)
    masks = input.new_zeros(num_, h_feature * w_feature, h_feature * w_feature)
    # Each position of the map occurs once in a window; places outside the map go nowhere.
    rows = torch.arange(len(index), device=index.device)[:, None].expand_as(index)[valid]
    masks[:, rows, index[valid]] = maps[:, valid]
    output.copy_((masks.transpose(1, 2) if psa_type == 0 else masks).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fills the input's gradient; arguments as in `psamask_forward`."""
    device = grad_output.device
    index, valid = other_positions(device, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    grad = grad_output.flatten(2)
    grad = grad.transpose(1, 2) if psa_type == 0 else grad
    maps = grad.gather(2, index.expand(num_, -1, -1)) * valid
    grad_input.copy_(maps.transpose(1, 2).reshape(grad_input.shape))


def other_positions(
    device: torch.device, height: int, width: int, h_mask: int, w_mask: int, half_h: int, half_w: int
) -> tuple[Tensor, Tensor]:
    """Returns the position at each place of each position's window (H * W, window), and whether it is in the map."""
    place = torch.arange(h_mask * w_mask, device=device)
    position = torch.arange(height * width, device=device)[:, None]
    row = position // width + place // w_mask - half_h
    column = position % width + place % w_mask - half_w
    valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(valid, row * width + column, 0), valid
