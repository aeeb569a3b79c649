from mmfocal.models.cvt import CvT
from mmfocal.models.focal_transformer import FocalTransformer
from mmfocal.models.vision_longformer import VisionLongformer

__all__ = ['CvT', 'FocalTransformer', 'VisionLongformer']
