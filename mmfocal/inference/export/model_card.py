"""A folder ready for the Hugging Face Hub: weights, config and a model card."""

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from torch import nn

from mmfocal.engine.config_text import read_settings
from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically
from mmfocal.inference.export.safetensors_format import write_checkpoint

CARD = """---
{front_matter}---

# {name}

{summary}

## Use

```bash
pip install "mmfocal[{extra}]"
```

```python
from mmfocal import Predictor

predictor = Predictor('model.safetensors')
prediction = predictor('image.jpg')
```

{usage} Classes: {classes}.

{results}## Files

- `model.safetensors`: weights, with the config and the classes in its metadata.
- `config.py`: the config of the training, for reading; `Predictor` takes the one in the metadata, as data.
"""


def write_hub_folder(
    source: str, folder: Path, config: str | None = None, license: str | None = None, name: str | None = None
) -> list[Path]:
    """Writes `model.safetensors`, `config.py` and `README.md`; nothing is uploaded.

    Args:
        source: The checkpoint.
        folder: To write; it must not exist, or be empty.
        config: The checkpoint's config; None for the one that it holds.
        license: Identifier for the card, e.g. 'apache-2.0'; None for no licence field.
        name: Of the model; default: that of the folder.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder has files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f'{folder}: it exists and is not empty; choose another folder')
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.hub', dir=folder.parent) as parent:
        partial = Path(parent, 'folder')
        model, cfg, meta = write_checkpoint(source, config, partial / 'model.safetensors')
        write_atomically(partial / 'config.py', meta['cfg'])
        write_atomically(partial / 'README.md', make_card(model, cfg, meta, license, name or folder.name))
        os.replace(partial, folder)
    return [folder / one for one in ('model.safetensors', 'config.py', 'README.md')]


def make_card(model: nn.Module, cfg: Config, meta: dict[str, Any], license: str | None, name: str) -> str:
    """Returns a model card in Markdown, with the figures that the checkpoint has and no others."""
    semantic = hasattr(model, 'decode_head')
    masks = hasattr(getattr(model, 'roi_head', None), 'mask_head') or 'Mask' in type(model).__name__
    task = 'image-segmentation' if semantic or masks else 'object-detection'
    backbone = type(model.backbone).__name__
    front: dict[str, Any] = dict(license=license) if license else {}
    front |= dict(
        library_name='mmfocal', pipeline_tag=task, tags=[task, 'mmsegmentation' if semantic else 'mmdetection']
    )
    if backbone == 'FocalTransformer':
        front['tags'].append('focal-transformer')
    metrics = {key: value for key, value in meta['metrics'].items() if value != -1}  # COCO's for no object of a size
    results = ''
    if metrics:
        data = _name_of_data(meta['cfg'])
        rows = [dict(type=key.split('/')[-1], name=key, value=value) for key, value in metrics.items()]
        result = dict(task=dict(type=task), dataset=dict(type=data, name=data), metrics=rows)
        front['model-index'] = [dict(name=name, results=[result])]
        lines = [f'| {key} | {value:.4g} |' for key, value in metrics.items()]
        results = '\n'.join(['## Results', '', f'Of the last validation in training, on {data}:'])
        results += '\n\n' + '\n'.join(['| Metric | Value |', '| --- | --- |', *lines]) + '\n\n'
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    usage = '`prediction.label_map` has the class of each pixel.'
    if not semantic:
        usage = '`prediction` has `boxes` (x1, y1, x2, y2 in pixels), `scores`, `labels` and `names`'
        usage += ', and `masks`.' if masks else '.'
    return CARD.format(
        front_matter=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        name=name,
        summary=f'{type(model).__name__} with the backbone {backbone}, {parameters:.1f} M parameters, of '
        '[mmfocal](https://github.com/mmfocal/mmfocal).',
        extra='segmentation' if semantic else 'detection',
        usage=usage,
        classes=', '.join(meta['dataset_meta']['classes']),
        results=results,
    )


def _name_of_data(text: str) -> str:
    """Returns the name of the folder with the validation data, as the config's text says it."""
    try:
        settings = read_settings(text)
    except ValueError:
        return 'the validation set'
    dataset = (settings.get('val_dataloader') or {}).get('dataset') or {}
    return Path(str(dataset.get('data_root') or '')).name or 'the validation set'
