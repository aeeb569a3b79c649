"""HTML pages of one file: the style, the script and the frame that all reports share.

A page's own template extends `base.html.j2` and fills its blocks `title`, `heading`, `lead`, `main` and `footer`.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape


def make_environment(folder: str | Path) -> Environment:
    """Returns a Jinja environment that escapes whatever is put into a page.

    The filter `number` formats numbers, and None as a dash.

    Args:
        folder: Holds the page's own templates.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=select_autoescape(['html.j2']),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters['number'] = format_number
    return environment


def format_number(value: float | None, spec: str = '') -> str:
    """Formats a number; a dash if there is none."""
    return '–' if value is None else f'{value:{spec}}'
