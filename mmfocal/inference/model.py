"""A model from a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmengine.utils import import_modules_from_strings
from torch import nn

from mmfocal.datasets.palettes import make_palette
from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.engine.command_line import read_config
from mmfocal.engine.compatibility import check_compatible
from mmfocal.errors import CheckpointError, ConfigError
from mmfocal.inference.checkpoint_config import only_registered, read_checkpoint_config, without_initial_weights
from mmfocal.weights import load_checkpoint
from mmfocal.weights.backbone import find_state_dict
from mmfocal.weights.classifier import fit_classifier

# Panoptic models have heads for their parts too, which predict fewer classes.
_HEADS = 'panoptic_fusion_head', 'panoptic_head', 'decode_head', 'roi_head.bbox_head', 'bbox_head', 'mask_head', 'head'


def load_model(
    checkpoint: str | Path,
    config: str | Path | Config | None = None,
    device: str | torch.device | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[nn.Module, Config]:
    """Builds the model of a checkpoint and loads its weights.

    Without `config` the config comes from the checkpoint. It is read as data: of it, only registered classes are built,
    no file is read and nothing is downloaded. A config that is passed is trusted.

    Args:
        checkpoint: A checkpoint of mmfocal, MMDetection or MMSegmentation: a file or URL, in any format that
            `load_checkpoint` reads.
        config: A path, a name as for `mmfocal train`, or a config.
        device: Default: the GPU if there is one, else the CPU.
        classes: Names of the classes. Default: those of the checkpoint, else of the config.

    Returns:
        The model in evaluation mode, with `dataset_meta` (`classes` and `palette`), and its config. A config that comes
        from the checkpoint holds the model and the test pipeline alone.

    Raises:
        MissingFileError: If there is no such checkpoint or config.
        CheckpointError: If the checkpoint cannot be read, holds no config, or belongs to another model.
        ConfigError: If the config, the device or the classes cannot be used.
    """
    name = str(checkpoint)
    device = _check_device(device)
    content = load_checkpoint(name)
    find_state_dict(content, name)  # else it is no checkpoint
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    import_modules_from_strings('mmfocal.registration')  # it stands above this package in the law of imports
    if config is None:
        model, cfg = _build_from_text(meta.get('cfg'), name)
    else:
        cfg = config if isinstance(config, Config) else read_config(config)
        model = _build(cfg, str(cfg.filename or 'config'))
    fit_classifier(content, model, name)
    state_dict = find_state_dict(content, name)
    check_compatible(model, state_dict, name)
    _check_finite(state_dict, name)
    _load_checkpoint_to_model(model, dict(state_dict=state_dict), logger='silent')
    model.dataset_meta = _find_dataset_meta(model, cfg, meta, classes, name)
    return model.to(device).eval(), cfg


def _check_finite(state_dict: dict[str, torch.Tensor], name: str) -> None:
    """Raises a CheckpointError for weights of a training that diverged, whose predictions are empty."""
    for key, value in state_dict.items():
        if value.is_floating_point() and value.isnan().any():
            raise CheckpointError(
                f'{name}: {key} has NaN, as after a training that diverged; use an earlier checkpoint'
            )


def _build_from_text(text: Any, name: str) -> tuple[nn.Module, Config]:
    if not isinstance(text, str) or not text.strip():
        raise CheckpointError(f'{name}: it holds no config; pass the one that it was trained with as --config')
    cfg = read_checkpoint_config(text, name)
    try:
        with only_registered():
            return _build(cfg, name), cfg
    except (ConfigError, CheckpointError):
        raise
    except Exception as error:  # a setting that a class does not take: any kind of error
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise CheckpointError(
            f'{name}: its config does not build here ({reason}); pass the file that it was trained with as --config'
        ) from error


def _build(cfg: Config, name: str) -> nn.Module:
    if not cfg.get('model'):
        raise ConfigError(f'{name}: it has no model; name the config of a detector or segmentor')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    return revert_sync_batchnorm(MODELS.build(without_initial_weights(cfg.model)))


def _check_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch's words differ from build to build
        raise ConfigError(
            f'--device: PyTorch cannot use {device} here ({str(error).splitlines()[0]}); try --device cpu'
        ) from error


def count_classes(model: nn.Module) -> int | None:
    """Returns how many classes a model's heads predict, or None if they do not say."""
    for path in _HEADS:
        head: Any = model
        for part in path.split('.'):
            head = getattr(head, part, None)
        if isinstance(head, nn.ModuleList):  # cascades
            head = head[-1]
        number = getattr(head, 'num_classes', None)
        if isinstance(number, int):
            return number
    return None


def _find_dataset_meta(
    model: nn.Module, cfg: Config, meta: dict, classes: Sequence[str] | None, name: str
) -> dict[str, Any]:
    """Returns `classes`, `palette` and what else describes the data, from the first source whose number fits."""
    number = count_classes(model)
    if classes is not None:
        if number is not None and len(classes) != number:
            raise ConfigError(f'--classes: {len(classes)} names, but the model of {name} has {number} classes')
        return dict(classes=tuple(classes), palette=make_palette(len(classes)))
    for source in (meta.get('dataset_meta'), meta, _metainfo(cfg)):
        found = {str(key).lower(): value for key, value in (source or {}).items()} if isinstance(source, dict) else {}
        names = found.get('classes')
        if not isinstance(names, (list, tuple)) or number is not None and len(names) != number:
            continue
        if source is meta:  # of MMDetection 2, which has other things in it too
            found = {key: found[key] for key in ('classes', 'palette') if key in found}
        palette = found.get('palette')
        if hasattr(palette, 'tolist'):
            palette = palette.tolist()
        if not isinstance(palette, (list, tuple)) or len(palette) != len(names):  # another data set's, by inheritance
            palette = make_palette(len(names))
        return found | dict(classes=tuple(map(str, names)), palette=[tuple(colour) for colour in palette])
    if number is None:
        raise ConfigError(f'{name}: neither the checkpoint nor its config names the classes; pass them as --classes')
    return dict(classes=tuple(f'class {i}' for i in range(number)), palette=make_palette(number))


def _metainfo(cfg: Config) -> dict[str, Any]:
    """Returns what the config says about the classes, or the data set's class, which is not built."""
    dataset = next(iterate_inner((cfg.get('test_dataloader') or {}).get('dataset') or {}), None) or {}
    kind = str(dataset.get('type', '')).rpartition('.')[2]
    known: dict[str, Any] = {}
    for node in DATASETS.children.values():
        node.import_from_location()
        known |= getattr(node.module_dict.get(kind), 'METAINFO', {})
    return {str(key).lower(): value for key, value in (known | dict(dataset.get('metainfo') or {})).items()}
