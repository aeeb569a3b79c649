from mmdet.models import RepPointsDetector
from mmdet.registry import MODELS


@MODELS.register_module()
class RepPointsV2Detector(RepPointsDetector):
    """RepPoints V2 (https://arxiv.org/abs/2007.08508): backbone, FPN and `RepPointsV2Head`."""
