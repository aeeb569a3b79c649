"""Weights of a backbone's first convolution, for images of other than three channels."""

from collections.abc import Mapping

import torch
from torch import Tensor


def expand_stem(state_dict: dict[str, Tensor], target: Mapping[str, Tensor], name: str) -> str:
    """Fits the stem of an RGB model to one or to more than three channels, in place.

    For more channels the first three keep their weights and the others start at 0, so that the function of RGB is kept.
    For one channel it is the sum over the three: the function of a grey image that is repeated three times.

    Args:
        state_dict: Weights of the file, in the model's names.
        target: The model's state dict.
        name: The weight of the stem, (C, channels, kernel, kernel).

    Returns:
        What was done, for the log; empty if nothing.
    """
    if name not in state_dict or name not in target or state_dict[name].dim() != 4:
        return ''
    weight, channels = state_dict[name], target[name].shape[1]
    if weight.shape[1] != 3 or channels in (2, 3) or weight[:, 0].shape != target[name][:, 0].shape:
        return ''
    if channels == 1:
        state_dict[name] = weight.sum(1, keepdim=True)
        return 'stem: weights of 3 channels summed to 1'
    zeros = weight.new_zeros(len(weight), channels - 3, *weight.shape[2:])
    state_dict[name] = torch.cat([weight, zeros], 1)
    return f'stem: weights of 3 channels expanded to {channels}: the first 3 as in the file, the others 0'
