"""Backbones that load the checkpoint their `init_cfg` names."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence

from mmengine.model import BaseModule, PretrainedInit

from mmfocal.errors import ConfigError

UNSET = ('', 'unset')  # what a config says where the environment variable of its weights is not set


def unset_variable(checkpoint: str, default: str = '') -> str | None:
    """Returns the environment variable that a config misses: 'unset:NAME' names it, 'unset' means `default`."""
    word, _, name = checkpoint.partition(':')
    return (name or default) if word in UNSET else None


def missing_weights(backbone: str, variable: str) -> ConfigError:
    """Returns the error of a backbone whose environment variable is not set."""
    return ConfigError(
        f'no weights for the {backbone} backbone: set the environment variable {variable} to the path '
        f'or URL of a checkpoint, or to none ({variable}=none) to train from scratch'
    )


class PretrainedBackbone(BaseModule):
    """Base of backbones whose checkpoints need more than names to load.

    Args:
        init_cfg: dict(type='Pretrained', checkpoint=FILE_OR_URL), with the options of the backbone; checkpoint='none'
            trains from
            scratch. A list may name other initializers of MMEngine before it.

    Raises:
        ConfigError: If `init_cfg` is not one of these.
    """

    init_cfg: dict | Sequence[dict] | None
    loading_options: tuple[str, ...] = ()  # keys of `init_cfg` for `load_pretrained`

    def __init__(self, init_cfg: dict | Sequence[dict] | None = None):
        super().__init__(init_cfg)
        pretrained, _ = self._split_init_cfg()
        checkpoint = 'none' if pretrained is None else pretrained['checkpoint']
        self._awaits_weights = checkpoint != 'none' and unset_variable(checkpoint) is None

    @abstractmethod
    def load_pretrained(self, checkpoint: str, **options) -> None:
        """Loads a checkpoint.

        Args:
            checkpoint: File or URL.
            **options: Those of `loading_options` that `init_cfg` has.
        """

    @property
    @abstractmethod
    def weights_variable(self) -> str:
        """Environment variable that names the weights in configs."""

    def init_weights(self) -> None:
        """Initializes the weights as `init_cfg` says; what is pretrained is loaded last.

        Raises:
            ConfigError: If the checkpoint's name is empty.
            CheckpointError: If the file cannot be read or is of another model.
        """
        pretrained, others = self._split_init_cfg()
        if pretrained is None:
            super().init_weights()
            return
        variable = unset_variable(pretrained['checkpoint'], self.weights_variable)
        if variable is not None:
            raise missing_weights(type(self).__name__, variable)
        if others:
            init_cfg, self.init_cfg = self.init_cfg, others
            super().init_weights()
            self.init_cfg = init_cfg
        if pretrained['checkpoint'] != 'none':
            options = {name: pretrained[name] for name in self.loading_options if name in pretrained}
            self.load_pretrained(pretrained['checkpoint'], **options)
        self.is_init = True

    def warn_if_not_loaded(self) -> None:
        """Warns, once, if the checkpoint of `init_cfg` was not loaded; `forward` calls it."""
        if self._awaits_weights and not self.is_init:
            warnings.warn(
                f'{type(self).__name__}: the weights that init_cfg names are not loaded; call init_weights() first'
            )
        self._awaits_weights = False

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._awaits_weights = False

    def _split_init_cfg(self) -> tuple[dict | None, list[dict]]:
        """Returns the `Pretrained` initializer, with its checkpoint as a string, and the other initializers."""
        name, init_cfg = type(self).__name__, self.init_cfg
        cfgs = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or ())
        if not all(isinstance(cfg, dict) for cfg in cfgs):
            raise ConfigError(f'{name}: init_cfg must be a dict or a list of dicts, got {init_cfg!r}')
        pretrained = [cfg for cfg in cfgs if cfg.get('type') in ('Pretrained', PretrainedInit)]
        if not pretrained:
            return None, cfgs
        if len(pretrained) > 1:
            raise ConfigError(f'{name}: init_cfg names two checkpoints; keep one')
        unknown = set(pretrained[0]) - {'type', 'checkpoint', 'prefix', 'map_location', *self.loading_options}
        if unknown:
            known = ', '.join(self.loading_options) or 'none'
            raise ConfigError(f'{name}: init_cfg has no option {min(unknown)}; there are {known}')
        if pretrained[0].get('prefix', 'backbone.').rstrip('.') != 'backbone':
            raise ConfigError(f"{name}: init_cfg: the only prefix is 'backbone.', found by itself; remove prefix")
        checkpoint = str(pretrained[0].get('checkpoint') or '')
        return dict(pretrained[0], checkpoint=checkpoint), [cfg for cfg in cfgs if cfg is not pretrained[0]]


def parse_out_indices(owner: str, out_indices: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the stages whose maps a backbone of four stages returns; `owner` is its name, for the error."""
    indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not indices or indices != tuple(sorted(set(indices) & set(range(4)))):
        raise ConfigError(f'{owner}: out_indices must list stages from 0 to 3 in increasing order, got {out_indices!r}')
    return indices


def check_choice(owner: str, name: str, value: object, choices: Sequence) -> None:
    """Raises a ConfigError if an argument of `owner` is none of the choices."""
    if value not in choices:
        raise ConfigError(f'{owner}: {name} must be one of {", ".join(map(repr, choices))}, got {value!r}')


def check_per_stage(owner: str, name: str, values: object) -> None:
    """Raises a ConfigError if an argument of `owner` does not have one entry for each of the four stages."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise ConfigError(f'{owner}: {name} must have 4 entries, one per stage, got {values!r}')
