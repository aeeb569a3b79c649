"""Where images come from: files, folders, patterns, URLs, videos, cameras, paths on standard input."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

import cv2
import numpy as np

from mmfocal.datasets.validation.images import DecoderMessages
from mmfocal.errors import DataError, MissingFileError
from mmfocal.inference.images import decode_image

IMAGES = {'.jpg', '.jpeg', '.jpe', '.jp2', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.ppm', '.pgm', '.pbm'}
VIDEOS = {'.mp4', '.m4v', '.avi', '.mov', '.mkv', '.webm', '.wmv', '.flv', '.mpg', '.mpeg', '.ts'}
TIMEOUT = 30  # seconds without an answer
MAX_BYTES = 1 << 28  # of an image behind a URL
FRAMES_PER_SECOND = 25  # of videos and cameras that do not say


@dataclass(frozen=True)
class Frame:
    """An image, or why it cannot be read.

    Args:
        name: Unique, without suffix, with / between folders: results are named after it.
        source: Where it comes from: a path or URL, with # and the index of a frame in a video.
        image: (H, W, 3), uint8, BGR; None if it cannot be read.
        error: The reason, in one sentence.
        video: Name of the video that it is a frame of.
        fps: Frames per second of the video.
    """

    name: str
    source: str
    image: np.ndarray | None = None
    error: str = ''
    video: str = ''
    fps: float = 0.0


@dataclass(frozen=True)
class _Item:
    kind: str  # 'image', 'video', 'camera' or 'stdin'
    path: str
    name: str


class Sources:
    """Iterates over the images of several sources.

    Args:
        sources: Files, folders with all that is below, patterns with * ? [ ], http and https URLs, addresses of streams
            (rtsp://…), indices of cameras, and - for a path or URL per line on standard input.
        without: A folder whose files are left out, such as that of the results.

    Raises:
        MissingFileError: If a file or folder does not exist, or nothing matches a pattern.
        DataError: If a folder has no image or video.
    """

    def __init__(self, sources: Sequence[str], without: str | Path | None = None) -> None:
        self._without = os.path.abspath(without) if without is not None else None
        self._taken: set[str] = set()
        self._items = [item for source in sources for item in self._expand(str(source))]

    def count(self) -> int | None:
        """Returns the number of images and frames, or None if only reading all of them tells."""
        total = 0
        for item in self._items:
            if item.kind == 'video' and '://' not in item.path:
                with DecoderMessages():
                    frames = int(cv2.VideoCapture(item.path).get(cv2.CAP_PROP_FRAME_COUNT))
                total += max(frames, 1)
            elif item.kind == 'image':
                total += 1
            else:
                return None
        return total

    def __iter__(self) -> Iterator[Frame]:
        for item in self._items:
            if item.kind == 'stdin':
                for line in filter(None, map(str.strip, sys.stdin)):
                    try:
                        for found in self._expand(line):
                            yield from self._read(found)
                    except (DataError, MissingFileError) as error:
                        yield Frame(self._unique(Path(line).stem), line, error=str(error))
            else:
                yield from self._read(item)

    def _read(self, item: _Item) -> Iterator[Frame]:
        if item.kind != 'image':
            yield from self._read_video(item)
            return
        name = self._unique(item.name)
        try:
            content = _download(item.path) if '://' in item.path else Path(item.path).read_bytes()
            with DecoderMessages():
                image = decode_image(content, item.path)
        except DataError as error:
            yield Frame(name, item.path, error=str(error))
        except OSError as error:
            reason = error.strerror or str(getattr(error, 'reason', error))
            yield Frame(name, item.path, error=f'{item.path}: cannot be read ({reason})')
        else:
            yield Frame(name, item.path, image)

    def _read_video(self, item: _Item) -> Iterator[Frame]:
        name = self._unique(item.name)
        with DecoderMessages():
            capture = cv2.VideoCapture(int(item.path) if item.kind == 'camera' else item.path)
        if not capture.isOpened():
            what = 'there is no such camera' if item.kind == 'camera' else 'not a video that OpenCV can read'
            yield Frame(name, item.path, error=f'{item.path}: {what}')
            return
        expected, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < 1000 else FRAMES_PER_SECOND
        index = 0
        try:
            while True:
                with DecoderMessages():
                    done, image = capture.read()
                if not done:
                    break
                yield Frame(f'{name}/{index:06}', f'{item.path}#{index}', image, video=name, fps=fps)
                index += 1
        finally:
            capture.release()
        if not index:
            yield Frame(name, item.path, error=f'{item.path}: no frame can be decoded')
        elif index < 0.95 * expected - 1:  # containers count roughly
            error = f'{item.path}: ends after {index} of {expected} frames; it is truncated or damaged'
            yield Frame(name, item.path, error=error)

    def _expand(self, source: str) -> list[_Item]:
        if source == '-':
            return [_Item('stdin', '-', '')]
        if '://' in source:
            return [_url_item(source)]
        if source.isascii() and source.isdigit() and not os.path.exists(source):
            return [_Item('camera', source, f'camera{source}')]
        if os.path.isdir(source):
            files = [path for path in _files_below(source) if _suffix(path) in IMAGES | VIDEOS]
            items = self._items_of(files, source)
            if not items:
                raise DataError(f'{source}: no image or video in this folder; check the path')
            return items
        if os.path.exists(source):
            return [_Item(_kind(source), source, Path(source).stem)]
        if glob.has_magic(source):
            root = re.split(r'[*?[]', source, maxsplit=1)[0].rpartition('/')[0]
            items = self._items_of(filter(os.path.isfile, sorted(glob.glob(source, recursive=True))), root)
            if not items:
                raise MissingFileError(f'{source}: no file matches; check the pattern')
            return items
        raise MissingFileError(f'{source}: no such file or folder; check the path')

    def _items_of(self, paths: Iterable[str], root: str) -> list[_Item]:
        """Returns items named by their paths below a folder."""
        below = None if self._without is None else os.path.join(self._without, '')
        kept = [path for path in paths if below is None or not os.path.abspath(path).startswith(below)]
        return [_Item(_kind(path), path, os.path.splitext(os.path.relpath(path, root or '.'))[0]) for path in kept]

    def _unique(self, name: str) -> str:
        """Returns a name for results, made of an item's, that no other item has on any file system."""
        parts = (re.sub(r'[^\w.,+=@()\- ]', '_', part) for part in Path(name).parts)
        name = '/'.join(part for part in parts if part.strip('. _')) or 'image'
        unique, number = name, 1
        while unique.lower() in self._taken:
            number += 1
            unique = f'{name}_{number}'
        self._taken.add(unique.lower())
        return unique


def _files_below(folder: str) -> Iterator[str]:
    """Yields all files in a folder and below, sorted, without hidden ones."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        yield from (os.path.join(path, name) for name in sorted(files) if not name.startswith('.'))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _kind(path: str) -> str:
    return 'video' if _suffix(path) in VIDEOS else 'image'


def _url_item(url: str) -> _Item:
    parts = urlparse(url)
    name = Path(unquote(parts.path)).stem or parts.hostname or 'stream'
    if parts.scheme in ('http', 'https') and _suffix(parts.path) not in VIDEOS:
        return _Item('image', url, name)
    return _Item('video', url, name)


def _download(url: str) -> bytes:
    """Returns the bytes behind a URL.

    Raises:
        OSError: If the server does not answer or refuses; of urllib.
        DataError: If it sends too much, or less than it has promised.
    """
    try:
        with urlopen(Request(url, headers={'User-Agent': 'mmfocal'}), timeout=TIMEOUT) as answer:
            content = answer.read(MAX_BYTES + 1)
            promised = int(answer.headers.get('Content-Length') or len(content))
    except ValueError as error:
        raise DataError(f'{url}: not a URL ({error})') from error
    if len(content) > MAX_BYTES:
        raise DataError(f'{url}: more than {MAX_BYTES >> 20} MiB, which is no image; download it by hand')
    if len(content) < promised:
        raise DataError(f'{url}: ended after {len(content)} of {promised} bytes; try again')
    return content
