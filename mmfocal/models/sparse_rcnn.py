from typing import Any

from mmdet.models.roi_heads.bbox_heads import DIIHead
from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module()
class StableDIIHead(DIIHead):
    """MMDetection's Sparse R-CNN head with a finite classification loss for batches without objects.

    MMDetection divides that loss by the number of objects, by 1e-7 if there are none. Here it is at least one, as in
    DETR. Weights and all other results are the same.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_cls.register_forward_pre_hook(_count_at_least_one, with_kwargs=True)


def _count_at_least_one(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, kwargs | dict(avg_factor=kwargs['avg_factor'].clamp(min=1.0))
