"""What is wrong with data, and the policy on it: stop at it, or leave it out and count."""

import os
import os.path as osp
from collections import Counter
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmfocal.datasets.validation.headers import MOST_PIXELS, size_in_header, too_large
from mmfocal.errors import ConfigError, DataError, MissingFileError, UserError

MOST_IN_A_ROW = 100  # bad samples, after which a data set that skips them stops


class Fault(NamedTuple):
    """One fault of a data set.

    Args:
        kind (str): What faults are counted by, a few words.
        sentence (str): What is wrong, where, and what to do.
        file (str): The annotation file, image or label map.
        image (int | str, optional): The image's id in its annotation file.
        annotation (int | str, optional): The annotation's id there.
        level (str): `error`, or `warning` for what only deserves a look, or `note`. Default: `error`.
        entry (tuple[str, int], optional): The list, and the index in it, of what can be left out.
    """

    kind: str
    sentence: str
    file: str
    image: Any = None
    annotation: Any = None
    level: str = 'error'
    entry: tuple | None = None


class StopOrSkip:
    """A data set that stops at bad data with one sentence, or skips it while training.

    To skip, annotations and files that are found to be bad at the start are left out, with one line in the
    log, and a sample that cannot be loaded is replaced by a random other one, whose `data_samples` have the
    sentences of those skipped in their metainfo's `skipped`; `BadDataHook` counts them. In test mode bad data
    always stops, since metrics over fewer images would be wrong.

    Args:
        bad_data (str): `stop` or `skip`. Default: `stop`.

    Raises:
        ConfigError: If `bad_data` is something else.
        MissingFileError: If an image or label map is not there when it is loaded.
        DataError: If one cannot be decoded or has another size than recorded; to skip, after 100 in a row.
    """

    def __init__(self, *args, bad_data='stop', **kwargs):
        if bad_data not in ('stop', 'skip'):
            raise ConfigError(f"bad_data={bad_data!r}: write 'stop', or 'skip' to leave bad data out of training")
        self.bad_data = bad_data
        super().__init__(*args, **kwargs)

    def __getitem__(self, idx):
        if not self._skips():
            return super().__getitem__(idx)
        skipped = []
        while True:
            try:
                sample = super().__getitem__(idx)
            except (DataError, MissingFileError) as error:
                skipped.append(str(error))
                if len(skipped) == MOST_IN_A_ROW:
                    raise DataError(
                        f'{error} ({MOST_IN_A_ROW} bad samples in a row; see to the data set with '
                        'tools/check_dataset.py)'
                    ) from error
                idx = self._rand_another()
                continue
            if skipped and 'data_samples' in sample:
                sample['data_samples'].set_metainfo(dict(skipped=skipped))
            return sample

    def prepare_data(self, idx):
        """Loads a sample as MMEngine does, and where that fails says whether a file is to blame."""
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
                _blame(file, image_id, recorded)
            raise
        # Boxes and masks are of the recorded size.
        loaded = getattr((sample or {}).get('data_samples'), 'ori_shape', recorded)
        if None not in recorded and tuple(loaded) != recorded:
            raise DataError(wrong_size(path, image_id, recorded, loaded))
        return sample

    def _skips(self):
        return self.bad_data == 'skip' and not self.test_mode

    def _reads_locally(self, path):
        # Files are loaded by the pipeline, which has backend_args of its own.
        loaders = [getattr(transform, 'backend_args', None) for transform in self.pipeline.transforms]
        return is_local(path, self.backend_args, *loaders)


def is_local(path, *backend_args):
    """Whether MMEngine reads a path from the local disk, with these arguments of its file backends."""
    return '://' not in path and all((args or {}).get('backend', 'local') == 'local' for args in backend_args)


def summary(faults):
    """One sentence of what is left out: how many of each kind, and the first of them.

    Args:
        faults (Sequence[Fault]): At least one.

    Returns:
        str: The sentence.
    """
    counts = Counter(fault.kind for fault in faults)
    kinds = ', '.join(f'{number} × {kind}' for kind, number in counts.most_common())
    return f"bad_data='skip' leaves out of {faults[0].file}: {kinds}; the first: {faults[0].sentence}"


def short(value):
    """A value for a sentence, cut where it is long."""
    text = repr(value)
    return text if len(text) < 80 else text[:77] + '...'


def missing(paths):
    """Which files are not there; each folder is listed once.

    Args:
        paths (Sequence[str]): Local paths.

    Returns:
        list[int]: Their indices.
    """
    folders, absent = {}, []
    for index, path in enumerate(paths):
        folder, file_name = osp.split(path)
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(folder or '.'))
            except (OSError, ValueError):  # absent, not readable as a list, or no name at all
                folders[folder] = set()
        # The second question is for file systems whose names match in another case or Unicode form.
        if file_name not in folders[folder] and not osp.exists(path):
            absent.append(index)
    return absent


def wrong_size(path, image_id, recorded, loaded):
    """The sentence about an image whose recorded size is not the one that it is loaded with.

    Args:
        path (str): The image.
        image_id (int | str): Its id in the annotation file.
        recorded, loaded (tuple[int, int]): Both heights and widths in px.

    Returns:
        str: The sentence.
    """
    why = ''
    if tuple(loaded) == recorded[::-1]:
        why = ' (it may carry an EXIF rotation, which loading applies)'
    return (
        f'{path}: {loaded[1]} x {loaded[0]} px{why}, and its annotation file has {recorded[1]} x '
        f'{recorded[0]} px for image {image_id!r}; correct the size there and the annotations, or the image'
    )


def _check_header(path, image_id, recorded):
    """Refuses a size that is wrong before memory is spent on it."""
    size = size_in_header(path)
    if size is None:
        return
    if None in recorded:
        if size[0] * size[1] > MOST_PIXELS:
            raise DataError(f'{path}: {too_large()}')
    elif size not in (recorded, recorded[::-1]):
        raise DataError(wrong_size(path, image_id, recorded, size))


def _blame(path, image_id, recorded):
    """Raises what is wrong with an image or its PNG of segments, if it is the file."""
    named = '' if image_id is None else f' (image {image_id!r})'
    if not osp.exists(path):
        raise MissingFileError(f'{path}{named}: not found; fetch it again, or remove what names it')
    pixels = _decode(path)
    if pixels is None:
        raise DataError(f'{path}{named}: not an image, or damaged; write it again, or remove it and its annotations')
    if None not in recorded and pixels.shape[:2] != recorded:
        raise DataError(wrong_size(path, image_id, recorded, pixels.shape[:2]))


def _decode(path):
    """The image as MMCV loads it, or None."""
    try:
        with open(path, 'rb') as file:
            return cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, ValueError, MemoryError, cv2.error):  # a folder; an odd name; too large; nothing in it
        return None
