"""Faster R-CNN, Mask R-CNN and Cascade R-CNN."""

import torch
import torch.nn as nn

from mmfocal.errors import ConfigError


class TwoStageDetector(nn.Module):
    pass


def check_two_stage(model: nn.Module, with_nms: bool) -> None:
    raise ConfigError(f'{type(model).__name__} cannot be exported as a whole; use --part backbone')
