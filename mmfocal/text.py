"""Parts of messages, and tables for the terminal."""

from collections.abc import Iterable


def join_some(names: Iterable[object], limit: int = 5) -> str:
    """Joins the first names by commas and counts the others: 'a, b and 3 more'.

    Args:
        names: Anything with a text.
        limit: The most names to list.
    """
    found = list(map(str, names))
    more = f' and {len(found) - limit} more' if len(found) > limit else ''
    return ', '.join(found[:limit]) + more


def format_table(rows: list[list[str]]) -> str:
    """Aligns columns, the first to the left and the others to the right; empty columns are dropped."""
    used = [i for i in range(len(rows[0])) if i == 0 or any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in used]
    lines = [
        '  '.join(row[i].ljust(width) if i == 0 else row[i].rjust(width) for i, width in zip(used, widths))
        for row in rows
    ]
    return '\n'.join(line.rstrip() for line in lines)
