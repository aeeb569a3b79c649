"""safetensors files: tensors and a few texts, https://github.com/huggingface/safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from mmfocal.errors import CheckpointError

MAX_HEADER = 100_000_000  # the library's own limit, in bytes


def is_safetensors(head: bytes, size: int) -> bool:
    """Returns whether a file of `size` bytes that begins with `head` is safetensors: a length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= min(size - 8, MAX_HEADER)


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Reads a file's tensors and metadata.

    Returns:
        `state_dict`, names and tensors on the CPU, and `meta`: the texts, of which `dataset_meta` and
        `metrics` are decoded.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        with safetensors.safe_open(str(path), framework='pt') as file:
            meta: dict[str, Any] = dict(file.metadata() or {})
            state_dict = {name: file.get_tensor(name) for name in file.keys()}
        for key in ('dataset_meta', 'metrics'):
            if key in meta:
                meta[key] = json.loads(meta[key])
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f'{path}: truncated or not safetensors ({error}); download it again or use another file'
        ) from error
    return dict(state_dict=state_dict, meta=meta)


def encode_safetensors(state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Returns the content of a file with tensors and metadata.

    Args:
        state_dict: Names and tensors.
        meta: `architecture`, `source`, `conversion` and others: texts, and `dataset_meta`, classes and their palette.
    """
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, default=lambda array: array.tolist())
        for key, value in meta.items()
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    return safetensors.torch.save(tensors, dict(format='pt', **texts))
