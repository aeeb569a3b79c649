"""One safetensors file with weights, config, classes and metrics, which mmfocal reads like a checkpoint."""

import os
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmfocal.errors import SavingError
from mmfocal.inference.model import load_model
from mmfocal.weights import load_checkpoint
from mmfocal.weights.writing import extract_weights, find_metrics, write_weights

SUFFIX = '.safetensors'


def write_checkpoint(source: str, config: str | None, path: Path) -> tuple[nn.Module, Config, dict[str, Any]]:
    """Writes a checkpoint as safetensors, loads the file and compares it.

    Args:
        source: The checkpoint.
        config: Its config; None for the one that it holds.
        path: The file to write.

    Returns:
        The model, its config, and what the file holds beside weights: `cfg`, `dataset_meta`, `metrics`, `source`.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or does not fit its config.
        SavingError: If what was written does not load as it was.
    """
    model, cfg = load_model(source, config, device='cpu')
    checkpoint = load_checkpoint(source)
    state_dict, meta = extract_weights(checkpoint, source)
    text = cfg.pretty_text if config else checkpoint['meta']['cfg']
    dataset_meta = {key: model.dataset_meta[key] for key in ('classes', 'palette') if key in model.dataset_meta}
    meta |= dict(source=Path(source).name, cfg=text, dataset_meta=dataset_meta, metrics=find_metrics(checkpoint))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export', dir=path.parent) as folder:
        partial = Path(folder, path.name)
        # copies, as safetensors takes no tensors that share their memory
        write_weights(partial, {name: value.clone() for name, value in state_dict.items()}, meta)
        again, _ = load_model(partial, device='cpu')
        ours, theirs = model.state_dict(), again.state_dict()
        different = [name for name, value in ours.items() if not value.equal(theirs[name])]
        if different:
            raise SavingError(f'{path}: {different[0]} differs after loading; nothing was written')
        os.replace(partial, path)
    return model, cfg, meta
