import re
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.model import is_model_wrapper
from torch import nn

from mmfocal.errors import ConfigError
from mmfocal.text import join_some


@contextmanager
def name_unused_parameters(model: nn.Module) -> Iterator[None]:
    """Names the parameters that had no gradient, which PyTorch's DistributedDataParallel gives as numbers.

    Args:
        model: The wrapped model.

    Raises:
        ConfigError: In place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        numbers = re.search(r'did not receive grad for rank \d+: ([\d ]+)', str(error))
        if not numbers or not is_model_wrapper(model):
            raise
        names = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
        unused = [names[int(number)] for number in numbers[1].split()]
        raise ConfigError(
            f'no gradient for {join_some(unused)}: several processes need one for each parameter; freeze or remove '
            'these, or set find_unused_parameters=True'
        ) from error
