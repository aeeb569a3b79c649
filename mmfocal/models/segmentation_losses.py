"""MMSegmentation's cross entropy with class weights and ignored pixels."""

import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS


@MODELS.register_module()
class WeightedCrossEntropyLoss(CrossEntropyLoss):
    """Cross entropy that is averaged with the class weights of the pixels that are not ignored, as PyTorch does.

    MMSegmentation's fails for `class_weight` and an ignored label of 255, which it looks up among the weights.

    Args:
        class_weight: One weight per class.
        **kwargs: As of `CrossEntropyLoss`.
    """

    def __init__(self, class_weight: list[float], **kwargs):
        super().__init__(class_weight=class_weight, avg_non_ignore=True, **kwargs)

    def forward(
        self,
        cls_score: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> torch.Tensor:
        """Returns the loss.

        Args:
            cls_score: Logits, (B, classes, H, W).
            label: Classes, (B, H, W), integers.
            weight: Weights of pixels, (B, H, W).
            avg_factor: What the sum is divided by. Default: the sum of the class weights.
            reduction_override: Reduction instead of the configured one.
            ignore_index: Label of ignored pixels.
            **kwargs: As of `CrossEntropyLoss`.
        """
        if avg_factor is None and (reduction_override or self.reduction) == 'mean':
            valid = label[label != ignore_index]
            avg_factor = cls_score.new_tensor(self.class_weight)[valid].sum().clamp(min=torch.finfo(torch.float32).eps)
        return super().forward(cls_score, label, weight, avg_factor, reduction_override, ignore_index, **kwargs)
