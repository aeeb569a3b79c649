"""What MMDetection lacks for the project's configs; importing it registers it."""
from .coco import CheckedCocoDataset

__all__ = ['CheckedCocoDataset']
