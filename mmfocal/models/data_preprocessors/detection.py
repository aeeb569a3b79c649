"""MMDetection's data preprocessor for images of any number of channels."""

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS

from mmfocal.models.data_preprocessors import AnyChannels


@MODELS.register_module()
class AnyChannelsDetDataPreprocessor(AnyChannels, DetDataPreprocessor):
    """`DetDataPreprocessor`, which takes one or three channels, for any number; options as of both classes."""
