"""What MMDetection lacks for the project's configs; importing it registers it."""
from .coco import CheckClassesHook, CheckedCocoDataset, CheckedCocoMetric
from .coco_panoptic import CheckedCocoPanopticDataset, CheckedCocoPanopticMetric, CheckPanopticClassesHook
from .foreground import SEPFocalLoss
from .point_assigners import PointAssignerV2, PointHMAssigner
from .reppoints_v2_detector import RepPointsV2Detector
from .reppoints_v2_head import RepPointsV2Head

__all__ = [
    'CheckClassesHook', 'CheckPanopticClassesHook', 'CheckedCocoDataset', 'CheckedCocoMetric', 'CheckedCocoPanopticDataset',
    'CheckedCocoPanopticMetric', 'PointAssignerV2', 'PointHMAssigner', 'RepPointsV2Detector', 'RepPointsV2Head', 'SEPFocalLoss'
]
