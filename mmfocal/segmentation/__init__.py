"""What MMSegmentation lacks for the project's configs; importing it registers it."""
from .datasets import CheckedADE20KDataset, CheckedCityscapesDataset, LabelMapDataset
from .hooks import CheckSegmentationHook
from .loading import LoadCheckedAnnotations

__all__ = [
    'CheckedADE20KDataset', 'CheckedCityscapesDataset', 'CheckSegmentationHook', 'LabelMapDataset',
    'LoadCheckedAnnotations'
]
