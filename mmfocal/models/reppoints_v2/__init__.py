"""RepPoints V2 (https://arxiv.org/abs/2007.08508), which MMDetection 3 does not have."""

from mmfocal.models.reppoints_v2.assigners import PointAssignerV2, PointHMAssigner
from mmfocal.models.reppoints_v2.detector import RepPointsV2Detector
from mmfocal.models.reppoints_v2.foreground import SEPFocalLoss
from mmfocal.models.reppoints_v2.head import RepPointsV2Head

__all__ = ['PointAssignerV2', 'PointHMAssigner', 'RepPointsV2Detector', 'RepPointsV2Head', 'SEPFocalLoss']
