"""Strict loading of a converted state dict into a backbone."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mmfocal.errors import CheckpointError


def load_fitting(backbone: nn.Module, state_dict: Mapping[str, Tensor], path: str, owned: Iterable[str]) -> int:
    """Loads a state dict into a backbone that it has to fit, and returns the number of tensors.

    Args:
        backbone: What to load into.
        state_dict: Weights under the backbone's names.
        path: Name of the file, for messages.
        owned: Names in `state_dict` that the backbone has to have; others may be left over.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape.
    """
    where, target = f'{path}: does not fit this {type(backbone).__name__}', backbone.state_dict()
    for name, value in target.items():
        if name not in state_dict:
            raise CheckpointError(f'{where}: it lacks {name}')
        if state_dict[name].shape != value.shape:
            raise CheckpointError(
                f'{where}: {name} is {tuple(state_dict[name].shape)} in the file and {tuple(value.shape)} in the model'
            )
    surplus = sorted(set(owned) - target.keys())
    if surplus:
        raise CheckpointError(f'{where}: the model has no {surplus[0]}')
    backbone.load_state_dict({name: state_dict[name] for name in target})
    return len(target)
