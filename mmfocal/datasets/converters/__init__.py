"""Detection data sets of other formats → COCO: a reader per format (`read`), and one writer."""

from mmfocal.datasets.converters.convert import FORMATS, convert

__all__ = ['FORMATS', 'convert']
