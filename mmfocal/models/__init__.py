from mmfocal.models.focal_transformer import FocalTransformer

__all__ = ['FocalTransformer']
