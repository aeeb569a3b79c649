"""Files with predictions: pictures, videos, JSON of boxes and masks, label maps, panoptic PNGs, CSV of classes."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from mmfocal.errors import SavingError
from mmfocal.files import write_atomically
from mmfocal.inference.drawing import Drawer, write_picture
from mmfocal.inference.results import Prediction, mask_to_box
from mmfocal.inference.sources import Frame


class ResultWriter:
    """Writes predictions into a folder, each as soon as it is there; `close` writes the JSON files.

    Args:
        folder: Where to write. Files of the same names are replaced.
        dataset_meta: The model's `classes` and `palette`.
        pictures: Whether to draw pictures and videos.
        top_k: Classes of a classifier that are written, the most probable first.
    """

    def __init__(self, folder: str | Path, dataset_meta: dict[str, Any], pictures: bool = True, top_k: int = 5) -> None:
        self.folder, self.top_k = Path(folder), top_k
        self._meta, self._drawer = dataset_meta, Drawer(dataset_meta, top_k) if pictures else None
        self._rows: list[list] = []
        self._images: list[dict] = []
        self._boxes: list[dict] | None = None
        self._segments: list[dict] = []
        self._label_maps = 0
        self._videos: dict[str, _Video] = {}

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Writes what belongs to an image.

        Args:
            frame: The image.
            prediction: Of this image.

        Raises:
            SavingError: If a file cannot be written.
        """
        image_id = len(self._images) + 1
        height, width = prediction.size
        if self._drawer is not None and frame.image is not None:
            picture = self._drawer.draw(frame.image, prediction)
            if frame.video:
                self._video(frame).write(picture)
            else:
                write_picture(self.folder / 'pictures' / f'{frame.name}.jpg', picture)
        if prediction.label_map is not None:
            write_picture(self.folder / 'label_maps' / f'{frame.name}.png', prediction.label_map)
            self._label_maps += 1
        elif prediction.panoptic is not None:
            self._add_panoptic(frame, prediction, image_id)
        if prediction.is_classification:
            self._add_classes(frame, prediction, image_id)
        elif prediction.label_map is None and (prediction.panoptic is None or len(prediction)):
            self._boxes = (self._boxes or []) + list(_coco_results(prediction, image_id))
        self._images.append(dict(id=image_id, file_name=frame.source, width=width, height=height))

    def close(self) -> dict[str, int]:
        """Finishes the videos and writes the JSON files.

        Returns:
            Number of predictions by the name of the file or folder that holds them.

        Raises:
            SavingError: If a file cannot be written.
        """
        written: dict[str, int] = {}
        for video in self._videos.values():
            video.close()
            if video.frames:
                written[video.path.relative_to(self.folder).as_posix()] = video.frames
        stills = len(self._images) - sum(video.frames for video in self._videos.values())
        if self._drawer is not None and stills:
            written['pictures/'] = stills
        if not self._images:
            return written
        # ids of classes are those of the label maps, which begin with 0, and of COCO's files, which begin with 1
        first = 0 if self._label_maps else 1
        things = set(self._meta.get('thing_classes') or self._meta['classes'])
        categories = [dict(id=i, name=name) for i, name in enumerate(self._meta['classes'], first)]
        if self._label_maps:
            written['label_maps/'] = self._label_maps
        if self._segments:
            categories = [dict(one, isthing=int(one['name'] in things)) for one in categories]
            content = dict(images=self._images, annotations=self._segments, categories=categories)
            self._write('panoptic.json', content)
            written |= {'panoptic/': len(self._segments), 'panoptic.json': len(self._segments)}
        if self._boxes is not None:
            self._write('predictions.json', self._boxes)
            written['predictions.json'] = len(self._boxes)
        if self._rows:
            table = io.StringIO()
            ranks = range(1, len(self._rows[0]) // 2 + 1)
            header = ['file', *(name for rank in ranks for name in (f'class_{rank}', f'score_{rank}'))]
            csv.writer(table, lineterminator='\n').writerows([header, *self._rows])
            write_atomically(self.folder / 'predictions.csv', table.getvalue())
            written['predictions.csv'] = len(self._rows)
        self._write('images.json', dict(images=self._images, categories=categories, annotations=[]))
        return written

    def _write(self, name: str, content: Any) -> None:
        write_atomically(self.folder / name, json.dumps(content))

    def _add_classes(self, frame: Frame, prediction: Prediction, image_id: int) -> None:
        self._boxes, row = self._boxes or [], [frame.source]
        for label, name, score in list(zip(prediction.labels, prediction.names, prediction.scores))[: self.top_k]:
            score = round(float(score), 5)
            self._boxes.append(dict(image_id=image_id, category_id=int(label) + 1, score=score))
            row += [name, score]
        self._rows.append(row)

    def _add_panoptic(self, frame: Frame, prediction: Prediction, image_id: int) -> None:
        ids = prediction.panoptic
        assert ids is not None
        write_picture(
            self.folder / 'panoptic' / f'{frame.name}.png',
            np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8),
        )
        infos = []
        for segment in prediction.segments:
            left, top, right, bottom = mask_to_box(ids == segment.id)
            box = [left, top, right - left, bottom - top]
            infos.append(dict(id=segment.id, category_id=segment.label + 1, area=segment.area, bbox=box, iscrowd=0))
        self._segments.append(dict(image_id=image_id, file_name=f'{frame.name}.png', segments_info=infos))

    def _video(self, frame: Frame) -> '_Video':
        if frame.video not in self._videos:
            self._videos[frame.video] = _Video(self.folder / 'videos' / f'{frame.video}.mp4', frame.fps)
        return self._videos[frame.video]


class _Video:
    """A video that is under its name only when it is complete."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        # OpenCV chooses the container by the suffix
        self._partial = path.with_name(f'.{path.stem}.{os.getpid()}.part{path.suffix}')
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._partial), code, self.fps, (width, height))
            if not self._writer.isOpened():
                raise SavingError(f'{self.path}: OpenCV cannot write MP4 here; use --no-pictures')
        self._writer.write(picture[..., ::-1])
        self.frames += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        try:
            if self.frames:
                os.replace(self._partial, self.path)
            else:
                self._partial.unlink(missing_ok=True)
        except OSError as error:
            raise SavingError(f'{self.path} cannot be saved: {error.strerror}') from error


def _coco_results(prediction: Prediction, image_id: int) -> list[dict]:
    """Returns boxes and masks in the format of COCO's results, with ids of classes from 1."""
    results = []
    for index, (left, top, right, bottom) in enumerate(prediction.boxes.astype(float).tolist()):
        one: dict[str, Any] = dict(
            image_id=image_id,
            category_id=int(prediction.labels[index]) + 1,
            bbox=[round(value, 3) for value in (left, top, right - left, bottom - top)],
            score=round(float(prediction.scores[index]), 5),
        )
        if prediction.masks is not None:
            encoded = rle.encode(np.asfortranarray(prediction.masks[index].astype(np.uint8)))
            one['segmentation'] = dict(size=encoded['size'], counts=encoded['counts'].decode())
        results.append(one)
    return results
