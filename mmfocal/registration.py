"""What configs' `custom_imports` name: imports everything that registers itself, as far as the installed libraries allow."""
from importlib.util import find_spec

from mmfocal import backbones, checkpoints, engine  # noqa: F401
from mmfocal.analysis import complexity  # noqa: F401

if find_spec('mmdet'):
    from mmfocal import detection  # noqa: F401
# MMSegmentation imports the other two, and works without MMDetection (its Mask2Former apart).
if all(map(find_spec, ('mmseg', 'ftfy', 'regex'))):
    from mmfocal import segmentation  # noqa: F401
