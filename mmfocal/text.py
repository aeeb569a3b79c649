"""Parts of messages."""

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
