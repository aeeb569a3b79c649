"""Prediction in Python: `Predictor('epoch_36.pth')('street.jpg')`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmfocal.datasets.wrappers import iterate_inner
from mmfocal.errors import ConfigError, DataError, MissingFileError, OutOfMemoryError
from mmfocal.inference.checkpoint_config import only_registered
from mmfocal.inference.drawing import Drawer
from mmfocal.inference.images import decode_image, image_to_bgr
from mmfocal.inference.model import load_model
from mmfocal.inference.results import Prediction, to_prediction


class Predictor:
    """Predicts with a checkpoint of a classifier, a detector or a segmentor, of instances, semantics or panoptics.

    Args:
        checkpoint: A file or URL.
        config: The model's config. Default: the one in the checkpoint, which is read as data and never run.
        device: Default: the GPU if there is one, else the CPU.
        score_thr: Lowest score of boxes and masks that are returned.
        batch_size: Images per batch, of those of equal size: images are not padded to others' size, so that a
            prediction does not depend on what else is in its batch.
        classes: Names of the classes. Default: those of the checkpoint, else of the config.

    Raises:
        UserError: As `load_model`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: str | Path | Config | None = None,
        device: str | torch.device | None = None,
        score_thr: float = 0.3,
        batch_size: int = 1,
        classes: Sequence[str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f'batch_size: must be at least 1, got {batch_size}')
        self.score_thr, self.batch_size = score_thr, batch_size
        self.model, self.cfg = load_model(checkpoint, config, device, classes)
        self.dataset_meta: dict[str, Any] = self.model.dataset_meta
        self.scope = self.cfg.get('default_scope') or 'mmdet'
        name = str(checkpoint if config is None else self.cfg.filename)
        with DefaultScope.overwrite_default_scope(self.scope):
            if config is None:
                with only_registered():
                    self.pipeline = build_pipeline(self.cfg, name)
            else:
                self.pipeline = build_pipeline(self.cfg, name)
        self._drawer = Drawer(self.dataset_meta)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which labels are indices into."""
        return self.dataset_meta['classes']

    @overload
    def __call__(self, images: list | tuple, score_thr: float | None = None) -> list[Prediction]: ...

    @overload
    def __call__(self, images: Any, score_thr: float | None = None) -> Prediction: ...

    def __call__(self, images: Any, score_thr: float | None = None) -> Prediction | list[Prediction]:
        """Predicts.

        Args:
            images: A path, an image of Pillow, or an array as NumPy has them of Pillow's images: (H, W, 3), RGB, uint8
                (of OpenCV's: `image[..., ::-1]`); or a list of these.
            score_thr: Lowest score, in place of that of the predictor.

        Returns:
            A prediction, or a list of them.

        Raises:
            MissingFileError: If there is no such file.
            DataError: If an image cannot be read.
        """
        if not isinstance(images, (list, tuple)):
            return self.predict_batch([_load(images)], score_thr)[0]
        predictions = []
        for start in range(0, len(images), self.batch_size):
            batch = [_load(image) for image in images[start : start + self.batch_size]]
            predictions += self.predict_batch(batch, score_thr)
        return predictions

    def predict_batch(self, images: Sequence[np.ndarray], score_thr: float | None = None) -> list[Prediction]:
        """Predicts on decoded images, those of equal size at once.

        Args:
            images: (H, W, 3), uint8, BGR as OpenCV reads them.
            score_thr: Lowest score, in place of that of the predictor.
        """
        score_thr = self.score_thr if score_thr is None else score_thr
        found: dict[int, Prediction] = {}
        with DefaultScope.overwrite_default_scope(self.scope), torch.no_grad():
            for indices, batch in self._batches(images):
                try:
                    samples = self.model.test_step(batch)
                except torch.OutOfMemoryError as error:
                    height, width = batch['inputs'][0].shape[-2:]
                    raise OutOfMemoryError(
                        f'prediction: the GPU is out of memory with {len(indices)} images of {height}x{width} pixels; '
                        'lower the batch size'
                    ) from error
                for index, sample in zip(indices, samples):
                    found[index] = to_prediction(sample, self.dataset_meta, score_thr)
        return [found[index] for index in range(len(images))]

    def draw(self, image: Any, prediction: Prediction, out: str | Path | None = None) -> np.ndarray:
        """Draws a prediction on its image.

        Args:
            image: As of a call.
            prediction: Of this image.
            out: A picture to write, with a suffix such as .jpg or .png. Default: none.

        Returns:
            The picture, (H, W, 3), RGB; small images are enlarged.
        """
        return self._drawer.draw(_load(image), prediction, out)

    def _batches(self, images: Sequence[np.ndarray]) -> Iterator[tuple[list[int], dict[str, list]]]:
        """Yields indices of images of equal size after the test pipeline, and the model's inputs."""
        groups: dict[tuple, list[tuple[int, dict]]] = defaultdict(list)
        for index, image in enumerate(images):
            data = self.pipeline(dict(img=image, img_id=index))
            groups[tuple(data['inputs'].shape)].append((index, data))
        for group in groups.values():
            batch = {key: [data[key] for _, data in group] for key in ('inputs', 'data_samples')}
            yield [index for index, _ in group], batch


def build_pipeline(cfg: Config, name: str) -> Compose:
    """Builds the test pipeline of a config for images that are loaded already.

    Args:
        cfg: A config with `test_dataloader`.
        name: Its name, for messages.

    Returns:
        Takes dict(img=ARRAY, img_id=0) with an array (H, W, 3), uint8, BGR; returns `inputs` and `data_samples`.

    Raises:
        ConfigError: If the pipeline does not start from an image file in 8-bit colours.
    """
    dataset = next(iterate_inner((cfg.get('test_dataloader') or {}).get('dataset') or {}), None) or {}
    steps: list[Any] = []
    loaders = []
    for step in dataset.get('pipeline') or ():
        kind = getattr(step['type'], '__name__', str(step['type'])).rpartition('.')[2]
        if kind in ('LoadImageFromFile', 'LoadImageFromNDArray'):
            loaders.append(step)
            scope = cfg.get('default_scope') or 'mmdet'
            if scope == 'mmpretrain':  # it has no such transform
                steps.append(_note_shape)
            else:
                steps.append(dict(type=f'{scope}.LoadImageFromNDArray', to_float32=step.get('to_float32', False)))
        elif not (kind.startswith('Load') and kind.endswith('Annotations')):
            steps.append(step)
    if len(loaders) != 1 or loaders[0].get('color_type', 'color') != 'color':
        raise ConfigError(
            f'{name}: its test pipeline must load images by LoadImageFromFile with color_type=color; pass a --config '
            'with such a test_dataloader'
        )
    return Compose(steps)


def _note_shape(results: dict[str, Any]) -> dict[str, Any]:
    """Adds what loading from a file notes."""
    shape = results['img'].shape[:2]
    return results | dict(img_shape=shape, ori_shape=shape)


def _load(image: Any) -> np.ndarray:
    if not isinstance(image, (str, Path)):
        return image_to_bgr(image)
    path = Path(image)
    if not path.is_file():
        raise MissingFileError(f'{path}: no such image; check the path')
    try:
        return decode_image(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror}); change its permissions') from error
