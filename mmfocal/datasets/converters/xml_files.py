"""Reading XML that somebody else has written."""

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from mmfocal.errors import DataError, MissingFileError


def read_xml(path: Path) -> Element:
    """Reads an XML file without expanding entities.

    Args:
        path: The file.

    Returns:
        Its root.

    Raises:
        DataError: If it is not XML, is truncated, or declares entities, by which a small file can fill the memory.
        MissingFileError: If defusedxml is not installed.
    """
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ModuleNotFoundError as error:
        raise MissingFileError(
            "defusedxml, which reads XML safely: not installed; pip install 'mmfocal[convert]'"
        ) from error
    try:
        return ElementTree.parse(path).getroot()
    except DefusedXmlException as error:
        raise DataError(f'{path}: declares XML entities, which are not expanded; remove its DOCTYPE') from error
    except (ParseError, UnicodeError, LookupError, ValueError) as error:
        raise DataError(f'{path}: not XML, or truncated ({error}); export it again') from error


def text_of(element: Element, name: str, default: str = '') -> str:
    """Returns the text of a child, stripped, or the default if it is absent or empty."""
    return (element.findtext(name) or '').strip() or default
