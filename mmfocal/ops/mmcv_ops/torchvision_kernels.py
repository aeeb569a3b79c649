"""Whether torchvision's compiled operators can be used, by device type."""

import functools

import torch

from mmfocal.ops.torchvision_import import MISMATCH, prepare_torchvision

enabled = True  # `install` turns it off for 'pytorch'
always = False  # and this on for 'torchvision'
failures: dict[str, str] = {}


def run_on(device_type: str) -> bool:
    """Returns whether torchvision's operators are enabled and run on 'cpu' or 'cuda'; False on other device types."""
    return enabled and device_type in ('cpu', 'cuda') and _run_on(device_type)


def preferred_on(device_type: str) -> bool:
    """Returns whether torchvision's RoIAlign and deformable convolution are to be used on a device type.

    On the CPU they run on one thread and are slower than the PyTorch versions.
    """
    return (always or device_type == 'cuda') and run_on(device_type)


@functools.cache
def _run_on(device_type: str) -> bool:
    if prepare_torchvision():
        failures[device_type] = MISMATCH
        return False
    try:
        import torchvision  # noqa: F401  (registers its operators)

        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device_type)
        return torch.ops.torchvision.nms(box, box[:, 2].contiguous(), 0.5).tolist() == [0]
    except ModuleNotFoundError as error:
        if (error.name or '').split('.')[0] != 'torchvision':
            failures[device_type] = str(error)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # Built against another torch, or without CUDA: the operators do not exist or have no kernel.
        failures[device_type] = str(error).splitlines()[0]
    return False
