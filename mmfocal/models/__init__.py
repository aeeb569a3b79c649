from mmfocal.models.focal_transformer import FocalTransformer
from mmfocal.models.vision_longformer import VisionLongformer

__all__ = ['FocalTransformer', 'VisionLongformer']
