"""Types in which operators compute."""

import torch
from torch import Tensor


def compute_dtype(tensor: Tensor) -> Tensor:
    """Returns a tensor in float32, or in float64 if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def kernel_dtype(tensor: Tensor) -> Tensor:
    """Returns a tensor in a type of torchvision's kernels on its device: float32, float64, and float16 on CUDA."""
    return tensor if tensor.is_cuda and tensor.dtype == torch.float16 else compute_dtype(tensor)


def as_float32(number: float) -> float:
    """Returns a number as the compiled operators receive it: rounded to float32."""
    return torch.tensor(number, dtype=torch.float32).item()
