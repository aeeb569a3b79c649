"""MMSegmentation's data preprocessor for images of any number of channels."""

from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from mmfocal.models.data_preprocessors import AnyChannels


@MODELS.register_module()
class AnyChannelsSegDataPreProcessor(AnyChannels, SegDataPreProcessor):
    """`SegDataPreProcessor`, which swaps no channels unless there are three, for any number; options as of both."""
