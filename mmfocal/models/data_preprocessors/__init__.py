"""Normalization of images of any number of channels; MMDetection's and MMSegmentation's classes are beside."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmfocal.errors import ConfigError


class AnyChannels(BaseDataPreprocessor):
    """Mixin of a data preprocessor for images of any number of channels, e.g. RGB and infrared.

    Args:
        mean: Means of the channels after the swap: one per channel, or one for all. Default: no normalization.
        std: Standard deviations, as many as means.
        bgr_to_rgb: Whether to swap the first and third channel; the others stay in place.
        rgb_to_bgr: The same.
        **kwargs: As of the class that it is mixed into.

    Raises:
        ConfigError: If the options contradict each other, or do not fit the images.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if bgr_to_rgb and rgb_to_bgr:
            raise ConfigError('data_preprocessor: bgr_to_rgb and rgb_to_bgr are both set; remove one')
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ConfigError(f'data_preprocessor: mean={mean} and std={std} differ in length; give one per channel')
        self._swaps = bgr_to_rgb or rgb_to_bgr
        self._enable_normalize = mean is not None
        if mean is not None:
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), False)
            self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), False)

    def cast_data(self, data: Any) -> Any:
        """Moves a batch to the device, which MMEngine's classes do first, and swaps and checks its channels."""
        data = super().cast_data(data)
        if isinstance(data, Mapping) and 'inputs' in data:
            images = data['inputs']
            images = self._prepare(images) if isinstance(images, Tensor) else [self._prepare(image) for image in images]
            data = {**data, 'inputs': images}
        return data

    def _prepare(self, images: Tensor) -> Tensor:
        channels = images.shape[-3]
        if self._enable_normalize and len(self.mean) not in (1, channels):
            raise ConfigError(
                f'data_preprocessor: mean has {len(self.mean)} values and the images {channels} channels; give one '
                "mean per channel, or load the images with another color_type ('unchanged' keeps all channels)"
            )
        if not self._swaps:
            return images
        if channels < 3:
            raise ConfigError(
                f'data_preprocessor: bgr_to_rgb is set and the images have {channels} channels; set bgr_to_rgb=False'
            )
        return images[..., [2, 1, 0, *range(3, channels)], :, :]
