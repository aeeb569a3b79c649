"""Makes torchvision importable where it was built with CUDA and torch was not."""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = dict.fromkeys(('nms', 'qnms'), '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
MISMATCH = 'torchvision is built with CUDA, torch without'

_library: torch.library.Library | None = None  # the schemas exist as long as it does


def prepare_torchvision() -> bool:
    """Defines the two operators without which `import torchvision` fails; to be called before that import.

    A torchvision that was built with CUDA cannot load its compiled operators into a torch without CUDA, and its import
    stops at the first that it describes. Transforms and models need none of them. The operators can be imported then,
    not called. Nothing is done for a torchvision that fits, or one that is imported already.

    Returns:
        Whether torchvision works without its operators, because the schemas were defined here.
    """
    global _library
    if _library is None and 'torchvision' not in sys.modules and torch.version.cuda is None and _is_built_with_cuda():
        _library = torch.library.Library('torchvision', 'FRAGMENT')
        for name, arguments in SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                _library.define(name + arguments)
    return _library is not None


def _is_built_with_cuda() -> bool:
    """Returns whether torchvision's compiled operators link CUDA's runtime."""
    spec = find_spec('torchvision')
    if spec is None or spec.origin is None:
        return False
    return any(b'libcudart.so' in path.read_bytes() for path in Path(spec.origin).parent.glob('_C*.so'))
