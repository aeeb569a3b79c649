"""Images in a zip file, read by MMEngine's file functions under `zip://FILE.zip@MEMBER#LOCATION`.

The location says where the member's bytes are. Data loader workers thus neither read nor keep the file's directory,
which for ImageNet takes a process seconds and hundreds of megabytes, and they share no position in the file: reading is
safe in threads, and in processes that are forked or spawned.
"""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from mmengine.fileio import BaseStorageBackend, register_backend

from mmfocal.errors import DataError, MissingFileError

PREFIX = 'zip://'
_HEADER = struct.Struct('<4s22xHH')  # of a member: signature, lengths of its name and of its extra field
_ENCRYPTED = 1


class Member(NamedTuple):
    """A file in a zip file.

    Args:
        archive: Path of the zip file.
        name: Path inside.
        offset: Of its header, in bytes.
        size: Bytes that it takes, compressed.
        method: `zipfile.ZIP_STORED` or `ZIP_DEFLATED`.
        crc: CRC-32 of its content.
    """

    archive: str
    name: str
    offset: int
    size: int
    method: int
    crc: int

    @property
    def uri(self) -> str:
        """What MMEngine's file functions, and thus `LoadImageFromFile`, read it by."""
        return f'{PREFIX}{self.archive}@{self.name}#{self.offset},{self.size},{self.method},{self.crc}'

    @property
    def label(self) -> str:
        """What messages call it."""
        return f'{self.archive}@{self.name}'


def list_members(archive: str) -> dict[str, Member]:
    """Returns the files in a zip file by their paths inside.

    Args:
        archive: Path that ends with `.zip`.

    Raises:
        DataError: If it is no zip file, is damaged, or holds members that are encrypted or compressed in other ways
            than by deflating.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            infos = [info for info in file.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f'{archive}: not a zip file, or cut off ({error}); fetch it again') from error
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
            how = 'encrypted' if info.flag_bits & _ENCRYPTED else f'compressed by method {info.compress_type}'
            raise DataError(f'{archive}@{info.filename}: {how}; write the zip file again, stored or deflated')
    return {
        info.filename: Member(
            archive, info.filename, info.header_offset, info.compress_size, info.compress_type, info.CRC
        )
        for info in infos
    }


def parse_uri(uri: str) -> Member:
    """Returns the member that a `Member.uri` names."""
    path, _, location = uri.removeprefix(PREFIX).rpartition('#')
    archive, _, name = path.partition('.zip@')
    offset, size, method, crc = map(int, location.split(','))
    return Member(f'{archive}.zip', name, offset, size, method, crc)


def read_member(member: Member) -> bytes:
    """Returns the content of a file in a zip file.

    Raises:
        MissingFileError: If the zip file does not exist.
        DataError: If the content is damaged.
    """
    file = _open(member.archive)
    header = os.pread(file, _HEADER.size, member.offset)
    if len(header) == _HEADER.size and header.startswith(b'PK\x03\x04'):
        _, *lengths = _HEADER.unpack(header)
        data = os.pread(file, member.size, member.offset + _HEADER.size + sum(lengths))
        try:
            content = data if member.method == zipfile.ZIP_STORED else zlib.decompress(data, -zlib.MAX_WBITS)
        except zlib.error:
            content = None
        if content is not None and len(data) == member.size and zlib.crc32(content) == member.crc:
            return content
    raise DataError(f'{member.label}: damaged; fetch the zip file again')


_files: dict[str, int] = {}  # descriptors; reading at a position does not move what other processes share


def _open(archive: str) -> int:
    if archive not in _files:
        try:
            _files[archive] = os.open(archive, os.O_RDONLY)
        except FileNotFoundError as error:
            raise MissingFileError(f'{archive}: not found; correct data_root') from error
        except OSError as error:
            raise DataError(f'{archive}: cannot be read ({error.strerror}); change its permissions') from error
    return _files[archive]


class ZipBackend(BaseStorageBackend):
    """Reads files in zip files for MMEngine."""

    def get(self, filepath: str | Path) -> bytes:
        """Returns the content that a `Member.uri` names."""
        return read_member(parse_uri(str(filepath)))

    def exists(self, filepath: str | Path) -> bool:
        """Returns whether the zip file is there."""
        return os.path.isfile(parse_uri(str(filepath)).archive)

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        """Returns it as text."""
        return self.get(filepath).decode(encoding)


register_backend('zip', ZipBackend, prefixes='zip', force=True)
