"""What a data set does with bad data: stop, or skip it while training."""

import logging
import os.path as osp
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log

from mmfocal.datasets.validation.files import is_local, read_image_size
from mmfocal.datasets.validation.images import FLOATS, has_float_values, wrong_size_message
from mmfocal.datasets.validation.issues import Issue, errors_of, group_by_kind, summarize
from mmfocal.errors import ConfigError, DataError, MissingFileError, UserError

MAX_CONSECUTIVE = 100  # bad samples, after which a data set that skips them stops


class StopOrSkip:
    """Mixin of a data set that stops at bad data with one message, or skips it while training.

    To skip, annotations and files that are found to be bad at the start are left out, with one warning in the log, and
    a sample that cannot be loaded is replaced by a random other one. Its `data_samples` carry the messages of the
    skipped samples in the metainfo's `skipped`; `BadDataHook` counts them. In test mode bad data always stops, since
    metrics over fewer images would be wrong.

    Args:
        bad_data: `stop` or `skip`.

    Raises:
        ConfigError: If `bad_data` is something else.
        MissingFileError: If an image or label map is missing when it is loaded.
        DataError: If one cannot be decoded or has another size than recorded; to skip, after 100 in a row.
    """

    def __init__(self, *args, bad_data: str = 'stop', **kwargs):
        if bad_data not in ('stop', 'skip'):
            raise ConfigError(f"bad_data={bad_data!r}: write 'stop', or 'skip' to leave bad data out of training")
        self.bad_data = bad_data
        super().__init__(*args, **kwargs)
        transforms = self.pipeline.transforms
        for index in reversed(range(len(transforms))):
            name = type(transforms[index]).__name__
            if name.startswith('Pack'):
                transforms.insert(index, copy_flipped)
            elif name.endswith('Flip') and index + 1 < len(transforms):
                transforms.insert(index + 1, copy_flipped)

    def __getitem__(self, idx: int) -> dict:
        if not self.skips_bad_data:
            return super().__getitem__(idx)
        skipped = []
        while True:
            try:
                sample = super().__getitem__(idx)
            except (DataError, MissingFileError) as error:
                skipped.append(str(error))
                if len(skipped) == MAX_CONSECUTIVE:
                    raise DataError(
                        f'{error} ({MAX_CONSECUTIVE} bad samples in a row; list all with tools/check_dataset.py)'
                    ) from error
                idx = self._rand_another()
                continue
            if skipped and 'data_samples' in sample:
                sample['data_samples'].set_metainfo(dict(skipped=skipped))
            return sample

    @property
    def skips_bad_data(self) -> bool:
        """Whether bad data is left out."""
        return self.bad_data == 'skip' and not self.test_mode

    @property
    def color_type(self) -> str:
        """`color_type` of the pipeline's `LoadImageFromFile`."""
        types = (getattr(transform, 'color_type', None) for transform in self.pipeline.transforms)
        return next(filter(None, types), 'color')

    def prepare_data(self, idx: int) -> Any:
        """Loads a sample as MMEngine does; if that fails because of a file, the error names the file."""
        data_info = self.get_data_info(idx)
        image_id, recorded = data_info.get('img_id'), (data_info.get('height'), data_info.get('width'))
        path = data_info['img_path']
        paths = [path for path in (path, data_info.get('seg_map_path')) if path and self._reads_locally(path)]
        for file in paths:
            _check_header(file, image_id, recorded)
        try:
            sample = self.pipeline(data_info)
        except UserError:
            raise
        except Exception:
            for file in paths:
                _check_decodable(file, image_id, recorded)
            raise
        # Boxes and masks are relative to the recorded size.
        loaded = getattr((sample or {}).get('data_samples'), 'ori_shape', recorded)
        if None not in recorded and tuple(loaded) != recorded:
            raise DataError(wrong_size_message(path, image_id, recorded, loaded))
        return sample

    def _report(self, issues: list[Issue], file: str) -> None:
        """Raises the first error, or logs what is skipped; logs warnings and notes."""
        errors = errors_of(issues)
        for issue in errors:
            if not self.skips_bad_data or issue.entry is None:
                raise issue.error(issue.message)
        if errors:
            print_log(f"{file}: bad_data='skip' leaves out {summarize(errors)}", 'current', logging.WARNING)
        for level, severity in (('warning', logging.WARNING), ('note', logging.INFO)):
            for same in group_by_kind(issue for issue in issues if issue.level == level):
                more = f' ({len(same) - 1} more: {same[0].kind})' if len(same) > 1 else ''
                print_log(same[0].message + more, 'current', severity)

    def _reads_locally(self, path: str) -> bool:
        # The pipeline loads files with backend_args of its own.
        loaders = [getattr(transform, 'backend_args', None) for transform in self.pipeline.transforms]
        return is_local(path, self.backend_args, *loaders)


def copy_flipped(results: dict) -> dict:
    """Copies an image with a negative stride, which flipping gives: later transforms would copy it more slowly, and
    packing overlooks it at one pixel's width.
    """
    for key in ('img', 'gt_seg_map'):
        if isinstance(results.get(key), np.ndarray) and min(results[key].strides, default=0) < 0:
            results[key] = _copy(results[key])
    return results


def _copy(image: np.ndarray) -> np.ndarray:
    """Returns a copy; of a mirrored image by OpenCV, forty times as fast as NumPy."""
    is_color = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    if is_color and image[:, ::-1].flags.c_contiguous and image.strides[0] > 0:
        return cv2.flip(image[:, ::-1], 1)
    return image.copy()


def _check_header(path: str, image_id: Any, recorded: tuple) -> None:
    """Refuses a wrong size before any memory is spent on it."""
    size = read_image_size(path)
    if size is not None and None not in recorded and size not in (recorded, recorded[::-1]):
        raise DataError(wrong_size_message(path, image_id, recorded, size))


def _check_decodable(path: str, image_id: Any, recorded: tuple) -> None:
    """Raises what is wrong with an image or label map, if it is the cause."""
    named = '' if image_id is None else f' (image {image_id!r})'
    if not osp.exists(path):
        raise MissingFileError(f'{path}{named}: not found; fetch it again, or remove what names it')
    pixels = _decode(path)
    if pixels is None and has_float_values(path):
        raise DataError(f'{path}{named}: {FLOATS[1]}')
    if pixels is None:
        raise DataError(f'{path}{named}: not an image, or damaged; write it again, or remove it and its annotations')
    if None not in recorded and pixels.shape[:2] != recorded:
        raise DataError(wrong_size_message(path, image_id, recorded, pixels.shape[:2]))


def _decode(path: str) -> np.ndarray | None:
    """Returns the image as MMCV loads it, or None."""
    try:
        with open(path, 'rb') as file:
            return cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, ValueError, MemoryError, cv2.error):  # a folder; an invalid name; too large; an empty file
        return None
