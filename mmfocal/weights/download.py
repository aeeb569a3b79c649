"""Downloads of checkpoints into torch.hub's cache."""

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.dist import all_gather_object, is_distributed

from mmfocal.errors import CheckpointError

TIMEOUT = 60  # seconds of silence


def download(url: str) -> str:
    """Downloads a file into torch.hub's cache, once per machine, and returns its path.

    Args:
        url: http or https. Eight or more digits of the SHA-256 before the extension, as torch.hub has them, are
            compared.

    Raises:
        CheckpointError: In all processes, if the one that downloads fails.
    """
    name = os.path.basename(urlparse(url).path)
    if name in ('', '.', '..'):
        raise CheckpointError(f'{url}: it names no file; give the URL of a checkpoint file')
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    failure = None
    if not is_distributed() or os.environ.get('LOCAL_RANK', '0') == '0':
        try:
            if not path.is_file():
                _fetch(url, path)
        except Exception as error:  # of any kind: the other ranks wait and have to hear of it
            failure = f'{url} could not be downloaded ({error}); download it by hand and give its path'
    failures = [reason for reason in all_gather_object(failure) if reason]
    if failures:
        raise CheckpointError(failures[0])
    return str(path)


def no_weights_reason(head: bytes) -> str | None:
    """Returns what a file is that begins with these bytes, and what to do, or None if it may hold weights.

    Args:
        head: The first 512 bytes, or all.
    """
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if not head:
        return 'an empty file; download it again'
    if text.startswith((b'<!doctype', b'<html', b'<head', b'<!--')):
        return 'a web page, as servers send for a login or a confirmation; download it in a browser or with gdown'
    if text.startswith(b'version https://git-lfs'):
        return 'a Git LFS pointer, not the file itself; run git lfs pull where you cloned it'
    if text.startswith((b'<?xml', b'{"', b'{\n')):
        return 'a text, such as the error of a server, not weights; open it to read what it says'
    return None


def _fetch(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    digits = torch.hub.HASH_REGEX.search(path.name)
    expected = digits[1] if digits and len(digits[1]) >= 8 else ''
    # torch.hub's own download would wait for ever, and keep what a broken connection left
    request = Request(url, headers={'User-Agent': 'torch.hub'})  # some hosts answer no Python-urllib
    try:
        with urlopen(request, timeout=TIMEOUT) as answer, open(part, 'wb') as file:
            promised = int(answer.headers.get('Content-Length', -1))
            sha256 = hashlib.sha256()
            with torch.hub.tqdm(
                total=max(promised, 0) or None, unit='B', unit_scale=True, disable=not sys.stderr.isatty()
            ) as bar:
                while chunk := answer.read(2**20):
                    file.write(chunk)
                    sha256.update(chunk)
                    bar.update(len(chunk))
            size = file.tell()
        if promised >= 0 and size != promised:
            raise ConnectionError(f'it ended after {size} of {promised} bytes')
        with open(part, 'rb') as file:
            reason = no_weights_reason(file.read(512))
        if reason:
            raise ValueError(f'it is {reason}')
        if not sha256.hexdigest().startswith(expected):
            raise ValueError(f'its SHA-256 is {sha256.hexdigest()}, and the hash in its name {expected}')
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
