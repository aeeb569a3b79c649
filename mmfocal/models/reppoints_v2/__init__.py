"""RepPoints V2 (https://arxiv.org/abs/2007.08508), which MMDetection 3 does not have."""

from mmfocal.ops import mmcv_ops

mmcv_ops.install()  # before MMDetection imports mmcv.ops

from mmfocal.models.reppoints_v2.assigners import PointAssignerV2, PointHMAssigner  # noqa: E402
from mmfocal.models.reppoints_v2.detector import RepPointsV2Detector  # noqa: E402
from mmfocal.models.reppoints_v2.foreground import SEPFocalLoss  # noqa: E402
from mmfocal.models.reppoints_v2.head import RepPointsV2Head  # noqa: E402

__all__ = ['PointAssignerV2', 'PointHMAssigner', 'RepPointsV2Detector', 'RepPointsV2Head', 'SEPFocalLoss']
