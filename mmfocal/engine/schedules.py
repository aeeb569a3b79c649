"""The learning rate of ImageNet's recipe, which MMEngine's schedules give only about."""

import math
from typing import Any

from mmengine.optim import CosineAnnealingLR
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(CosineAnnealingLR):
    """Linear warm-up, then the rest of half a cosine that counts from the first step.

    This is timm's `CosineLRScheduler` without `warmup_prefix`, as Swin and the released Focal code use it. MMEngine's
    `CosineAnnealingLR` after a warm-up starts its half at the warm-up's end, with learning rates up to 6 % of the base
    higher.

    Args:
        *args: As of `CosineAnnealingLR`.
        warmup: Length of the warm-up, in steps or epochs, as of `end`.
        warmup_ratio: Learning rate of the first step over the base. Defaults to 0.001.
        eta_min_ratio: Learning rate at the end over the base. Defaults to 0.01.
        **kwargs: As of `CosineAnnealingLR`.
    """

    def __init__(
        self, *args: Any, warmup: int, warmup_ratio: float = 1e-3, eta_min_ratio: float = 1e-2, **kwargs: Any
    ) -> None:
        self.warmup, self.warmup_ratio = warmup, warmup_ratio
        super().__init__(*args, eta_min_ratio=eta_min_ratio, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, warmup: int, epoch_length: int | None = None, **kwargs: Any
    ) -> 'WarmupCosineLR':
        """Returns the same schedule with one step per iteration."""
        return super().build_iter_from_epoch(
            *args, warmup=warmup * (epoch_length or 0), epoch_length=epoch_length, **kwargs
        )

    def _get_value(self) -> list[float]:
        step = self.last_step
        if step < self.warmup:
            share = self.warmup_ratio + (1 - self.warmup_ratio) * step / self.warmup
        else:
            cosine = (1 + math.cos(math.pi * step / self.T_max)) / 2
            share = self.eta_min_ratio + (1 - self.eta_min_ratio) * cosine
        return [base * share for base in self.base_values]
