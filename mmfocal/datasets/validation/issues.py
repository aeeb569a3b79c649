"""What an issue of a data set is, and how issues are counted, summarized and raised."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from mmfocal.errors import DataError, UserError
from mmfocal.text import join_some

LEVELS = ('error', 'warning', 'note')


class Issue(NamedTuple):
    """One issue of a data set.

    Args:
        kind: A few words; issues are counted by kind.
        message: Where the issue is, what is wrong, and what to do.
        file: Annotation file, image or label map.
        image: Image id in the annotation file.
        annotation: Annotation id in the annotation file.
        level: An `error` stops training, a `warning` is logged, a `note` is for information.
        entry: List and index of the entry that `bad_data='skip'` leaves out.
        error: Exception that an error raises.
    """

    kind: str
    message: str
    file: str
    image: Any = None
    annotation: Any = None
    level: str = 'error'
    entry: tuple[str, int] | None = None
    error: type[UserError] = DataError


def errors_of(issues: Iterable[Issue]) -> list[Issue]:
    """Returns the issues that stop training."""
    return [issue for issue in issues if issue.level == 'error']


def raise_first_error(issues: Iterable[Issue]) -> None:
    """Raises the first issue that stops training, if there is one."""
    for issue in errors_of(issues):
        raise issue.error(issue.message)


def count_by_kind(issues: Iterable[Issue]) -> dict[str, dict[str, int]]:
    """Counts issues by level, errors first, and within a level by kind, the most frequent first."""
    issues = list(issues)
    return {
        level: dict(Counter(issue.kind for issue in issues if issue.level == level).most_common()) for level in LEVELS
    }


def group_by_kind(issues: Iterable[Issue]) -> list[list[Issue]]:
    """Returns a list of issues for each kind, in the order of first occurrence."""
    groups: dict[str, list[Issue]] = {}
    for issue in issues:
        groups.setdefault(issue.kind, []).append(issue)
    return list(groups.values())


def summarize(issues: Sequence[Issue]) -> str:
    """Returns one line: how many issues of each kind, and the first message."""
    counts = Counter(issue.kind for issue in issues)
    kinds = ', '.join(f'{number} × {kind}' for kind, number in counts.most_common())
    return f'{kinds}; the first: {issues[0].message}'


def shorten(value: Any) -> str:
    """Returns a value's `repr`, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'


def quote_some(values: Collection) -> str:
    """Returns the first values, as Python writes them, and how many more there are."""
    return join_some(map(shorten, sorted(values) if isinstance(values, set) else values))


def is_id(value: Any) -> bool:
    """Returns whether a value can be an id: a number or a text."""
    return isinstance(value, (int, str)) or isinstance(value, float) and math.isfinite(value)
