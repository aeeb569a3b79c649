"""Whether the weights of a checkpoint fit a model."""

from collections import Counter

from torch import nn

from mmfocal.errors import CheckpointError
from mmfocal.models.wrappers import unwrap

_ADVICE = 'use the config that it was trained with'


def check_compatible(model: nn.Module, checkpoint: dict, filename: str) -> None:
    """Checks that a checkpoint has all of a model's weights.

    Args:
        model: The model, wrapped or not.
        checkpoint: The checkpoint, or the state dict itself.
        filename: Its name, for the message.

    Raises:
        CheckpointError: If a weight is missing or has another shape; the message names the first.
    """
    weights = _weights(checkpoint)
    for name, value in unwrap(model).state_dict().items():
        if name not in weights:
            raise CheckpointError(f'{filename}: does not fit the model, {name} is missing; {_ADVICE}')
        if weights[name].shape != value.shape:
            raise CheckpointError(
                f'{filename}: does not fit the model, {name} is {tuple(weights[name].shape)} in the file and '
                f'{tuple(value.shape)} in the model; {_ADVICE}'
            )


def describe_load(model: nn.Module, checkpoint: dict, filename: str, missing: list[str]) -> str:
    """Returns how many of a model's tensors a checkpoint to fine-tune from has replaced, and which groups are new.

    Args:
        model: The model, wrapped or not.
        checkpoint: The checkpoint, or the state dict itself.
        filename: Its name, for the message.
        missing: The model's tensors for which loading has found no value.

    Returns:
        Such as 'load_from a.pth: 300 of 420 tensors loaded; new: neck (16 of 16), bbox_head (4 of 104)'.

    Raises:
        CheckpointError: If it has replaced none.
    """
    weights = _weights(checkpoint)
    names = {}
    for name, value in unwrap(model).state_dict().items():
        if name.endswith('num_batches_tracked'):  # a counter, which PyTorch adds where a file has none
            continue
        reshaped = name in weights and getattr(weights[name], 'shape', None) != value.shape
        names[name] = name not in missing and not reshaped
    if not any(names.values()):
        raise CheckpointError(
            f'{filename}: load_from loads none of the {len(names)} tensors of the model, the file has '
            f'{", ".join(map(str, list(weights)[:2])) or "none"}; use a checkpoint of the whole model, or, for weights '
            'of the backbone, model.backbone.init_cfg'
        )
    totals = Counter(name.partition('.')[0] for name in names)
    new = Counter(name.partition('.')[0] for name, is_loaded in names.items() if not is_loaded)
    groups = ', '.join(f'{group} ({number} of {totals[group]})' for group, number in new.items())
    loaded = sum(names.values())
    return f'load_from {filename}: {loaded} of {len(names)} tensors loaded{f"; new: {groups}" if groups else ""}'


def _weights(checkpoint: dict) -> dict:
    weights = checkpoint.get('state_dict', checkpoint)
    return {name.removeprefix('module.'): value for name, value in weights.items()}
