"""Pictures of predictions, drawn by the visualizers of MMDetection, MMPretrain and MMSegmentation."""

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer

from mmfocal.errors import ConfigError
from mmfocal.files import write_atomically
from mmfocal.inference.results import Prediction
from mmfocal.visualization.fonts import use_font_for

LEGIBLE = 480  # px; smaller images are enlarged, or names would cover them
ALPHA = 0.6  # of masks and segments, under which the image shows


class Drawer:
    """Draws predictions of one model.

    Args:
        dataset_meta: Its `classes` and `palette`.
        top_k: Classes of a classifier that are named.
    """

    def __init__(self, dataset_meta: dict[str, Any], top_k: int = 5) -> None:
        self.dataset_meta, self.top_k = dataset_meta, top_k
        self._visualizers: dict[str, Visualizer] = {}

    def draw(self, image: np.ndarray, prediction: Prediction, out: str | Path | None = None) -> np.ndarray:
        """Draws a prediction.

        Args:
            image: (H, W, 3), uint8, BGR.
            prediction: Of this image.
            out: File to write. Default: none.

        Returns:
            The picture, (H, W, 3), RGB; small images are enlarged.

        Raises:
            ConfigError: If the image has another size, or the file's suffix is of no format.
            SavingError: If the file cannot be written.
        """
        if image.shape[:2] != prediction.size:
            raise ConfigError(f'draw: the image has {image.shape[:2]} pixels, the prediction is of {prediction.size}')
        scale = max(1, LEGIBLE // max(prediction.size))
        enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else image
        picture = np.ascontiguousarray(enlarged[..., ::-1])
        state = np.random.get_state()
        np.random.seed(0)  # MMDetection draws the colours of masks at random; frames of a video should have the same
        try:
            if prediction.is_classification:
                picture = self._write_classes(picture, prediction)
            elif prediction.label_map is not None:
                picture = self._draw_label_map(picture, _enlarge(prediction.label_map, scale))
            elif prediction.panoptic is not None and prediction.segments:
                picture = self._draw_panoptic(picture, prediction, scale)
            elif len(prediction):
                picture = self._draw_instances(picture, prediction, scale)
        finally:
            np.random.set_state(state)
        if out is not None:
            write_picture(out, picture)
        return picture

    def _draw_instances(self, picture: np.ndarray, prediction: Prediction, scale: int) -> np.ndarray:
        from mmdet.structures import DetDataSample

        instances = InstanceData(
            bboxes=torch.from_numpy(prediction.boxes * scale),
            scores=torch.from_numpy(prediction.scores),
            labels=torch.from_numpy(prediction.labels),
        )
        if prediction.masks is not None:
            masks = [_enlarge(mask.astype(np.uint8), scale) for mask in prediction.masks]
            instances.masks = torch.from_numpy(np.stack(masks).astype(bool))
        return self._drawn(
            'mmdet', picture, DetDataSample(pred_instances=instances), prediction.masks is None, pred_score_thr=-1
        )

    def _draw_panoptic(self, picture: np.ndarray, prediction: Prediction, scale: int) -> np.ndarray:
        from mmdet.evaluation import INSTANCE_OFFSET
        from mmdet.structures import DetDataSample

        values = np.full(len(prediction.segments) + 1, len(prediction.classes))
        for segment in prediction.segments:
            values[segment.id] = segment.label + INSTANCE_OFFSET * segment.id
        segments = torch.from_numpy(_enlarge(values[prediction.panoptic], scale))[None]
        return self._drawn('mmdet', picture, DetDataSample(pred_panoptic_seg=PixelData(sem_seg=segments)))

    def _draw_label_map(self, picture: np.ndarray, label_map: np.ndarray) -> np.ndarray:
        from mmseg.structures import SegDataSample

        labels = torch.from_numpy(label_map.astype(np.int64))[None]
        return self._drawn('mmseg', picture, SegDataSample(pred_sem_seg=PixelData(data=labels)))

    def _write_classes(self, picture: np.ndarray, prediction: Prediction) -> np.ndarray:
        from mmpretrain.visualization import UniversalVisualizer

        if 'mmpretrain' not in self._visualizers:
            use_font_for(self.dataset_meta['classes'])
            self._visualizers['mmpretrain'] = UniversalVisualizer(name=f'mmfocal {id(self)}')
        lines = [f'{score:.2f}  {name}' for name, score in zip(prediction.names[: self.top_k], prediction.scores)]
        visualizer, side = self._visualizers['mmpretrain'], max(picture.shape[:2])
        visualizer.set_image(picture)
        style = {**UniversalVisualizer.DEFAULT_TEXT_CFG, 'family': 'sans-serif', 'size': side / 40}
        visualizer.ax_save.text(side / 80, side / 80, '\n'.join(lines), **style)
        return visualizer.get_image()

    def _drawn(
        self, scope: str, picture: np.ndarray, sample: Any, lines_only: bool = False, **options: Any
    ) -> np.ndarray:
        if scope not in self._visualizers:
            use_font_for(self.dataset_meta['classes'])
            if scope == 'mmdet':
                from mmdet.visualization import DetLocalVisualizer as kind
            else:
                from mmseg.visualization import SegLocalVisualizer as kind
            self._visualizers[scope] = kind(name=f'mmfocal {id(self)}')
            self._visualizers[scope].dataset_meta = self.dataset_meta
        visualizer = self._visualizers[scope]
        visualizer.alpha = 1 if lines_only else ALPHA
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='Warning: The (bbox|polygon|text) is out of bounds')
            visualizer.add_datasample('image', picture, sample, draw_gt=False, **options)
        return visualizer.get_image()


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Writes a picture, completely or not at all.

    Args:
        path: With a suffix that OpenCV writes.
        picture: (H, W, 3), RGB, or (H, W), uint8 or uint16.

    Raises:
        ConfigError: If the suffix is of no format.
        SavingError: If the file cannot be written.
    """
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    try:
        done, content = cv2.imencode(Path(path).suffix, pixels)
    except cv2.error:
        done = False
    if not done:
        raise ConfigError(f'{path}: OpenCV writes no such format; let the name end with .jpg or .png')
    write_atomically(path, content.tobytes())


def _enlarge(values: np.ndarray, scale: int) -> np.ndarray:
    return values.repeat(scale, 0).repeat(scale, 1)
