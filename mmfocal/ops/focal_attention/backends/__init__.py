"""The backends of focal attention, one file each, all with the same functions:

- `unsupported(q, layout, dropout_p)`: why the backend cannot take an input, in a phrase; None if it can.
- `forward(q, k, v, pooled_kv, bias, layout, dropout_p)`: the output and, for backward, the log-sum-exp of each query's
  logits, or an empty tensor if `SAVES_LSE` is False.
- `backward(grad_out, q, k, v, pooled_kv, bias, out, lse, layout, bias_grad, grad_q, grad_k, grad_v, grad_pooled_kv)`:
  writes the gradients of the maps into its last four arguments and returns that of the bias (None unless `bias_grad`).
  The reference has none: autograd differentiates it.
"""

import warnings
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor

from mmfocal.ops.focal_attention.backends import gather, reference
from mmfocal.ops.focal_attention.geometry import Layout

BACKENDS = ('reference', 'gather', 'triton')
_TRITON_INSTALLED = find_spec('triton') is not None
_reported: set[str] = set()


def load(name: str) -> ModuleType:
    """Returns a backend's module; Triton, which takes a second to import, is imported when it is first needed."""
    if name == 'triton':
        from mmfocal.ops.focal_attention.backends import triton

        return triton
    return gather if name == 'gather' else reference


def unsupported(name: str, q: Tensor, layout: Layout, dropout_p: float) -> str | None:
    """Returns why a backend cannot take an input, in a phrase; None if it can."""
    if name == 'triton' and not _TRITON_INSTALLED:
        return 'the package triton is not installed'
    return load(name).unsupported(q, layout, dropout_p)


def choose(backend: str, q: Tensor, layout: Layout, dropout_p: float) -> str:
    """Returns the name of the backend that computes an input.

    Args:
        backend: A name, or 'auto': the fastest backend that supports the input.
        q: The queries, (B, H, W, heads, head_dim); keys and values are like them.
        layout: The attention pattern.
        dropout_p: Dropout on the attention weights.

    Raises:
        ValueError: If there is no such backend, or it does not support the input.
    """
    if backend == 'auto':
        reason = unsupported('triton', q, layout, dropout_p) if q.is_cuda else None
        if q.is_cuda and reason is None:
            return 'triton'
        name = 'gather' if unsupported('gather', q, layout, dropout_p) is None else 'reference'
        if reason is not None:
            _report_once(f"focal_attention: using {name!r}, as 'triton' does not support this input: {reason}")
        return name
    if backend not in BACKENDS:
        raise ValueError(
            f"focal_attention: backend must be 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}"
        )
    reason = unsupported(backend, q, layout, dropout_p)
    if reason is not None:
        raise ValueError(f"focal_attention: backend={backend!r} does not support this input: {reason}; use 'auto'")
    return backend


def _report_once(message: str) -> None:
    if message not in _reported:
        _reported.add(message)
        warnings.warn(message)


# As torch.compiler.assume_constant_result, which would import the compiler, and so seconds of it: called while tracing.
_report_once._dynamo_marked_constant = True  # type: ignore[attr-defined]
