from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmfocal.datasets.converters import cvat, labelme, voc, yolo
from mmfocal.datasets.converters.records import Report, Settings
from mmfocal.datasets.converters.writer import check_is_new, choose_classes, fit_objects, split_off, write_coco
from mmfocal.errors import DataError, MissingFileError

FORMATS = dict(voc=voc.read, yolo=yolo.read, labelme=labelme.read, cvat=cvat.read)


def convert(
    format: str,
    src: str | Path,
    dst: str | Path,
    *,
    classes: Sequence[str] | None = None,
    images: str = 'link',
    val: float = 0.0,
    skip_bad: bool = False,
    settings: Settings | None = None,
) -> tuple[dict[str, dict[str, Any]] | None, Report]:
    """Converts a detection data set to COCO; images are not touched.

    The result has `annotations/<split>.json` and `images/`, below which the files' `file_name` counts.

    Args:
        format: A key of `FORMATS`.
        src: The data set's folder, or the file that describes it.
        dst: Folder to create.
        classes: Classes to convert, in the order of their ids. Default: all.
        images: `link` or `copy` them to `dst`.
        val: Fraction of the images for `val.json`, if the source has no splits.
        skip_bad: Whether files with errors are left out. By default nothing is written if there is one.
        settings: How peculiarities are read.

    Returns:
        The annotations of each split, or None if nothing was written; and the errors and notes.

    Raises:
        UserError: If the source is not of the format, an argument does not fit it, or nothing can be written.
    """
    src, dst, report = Path(src), Path(dst), Report()
    if not src.exists():
        raise MissingFileError(f'{src}: not found; name the folder of the data set')
    check_is_new(dst)  # before minutes of reading
    source = FORMATS[format](src, replace(settings or Settings(), without=dst), report)
    names = choose_classes(source, classes, report) if source.pictures else []
    fit_objects(source, report)
    if report.errors and not skip_bad:
        return None, report
    if not source.pictures:
        raise DataError(report.errors[0] if report.errors else f'{src}: holds no image')
    if val:
        split_off(source, val)
    return write_coco(source, names, dst, images, f'converted from {format} by mmfocal', report), report
