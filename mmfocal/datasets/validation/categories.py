"""Whether a config's classes fit an annotation file's categories, matched by name."""

from collections import Counter
from collections.abc import Sequence

from mmfocal.datasets.validation.issues import Issue, quote_some, shorten
from mmfocal.errors import ConfigError


def match_categories(
    categories: list[dict], classes: Sequence[str], name: str, test_mode: bool = False, is_default: bool = False
) -> tuple[list[Issue], list[dict]]:
    """Matches a config's classes with an annotation file's categories by name.

    Args:
        categories: The file's valid categories.
        classes: `metainfo.classes`; the index of a class is its label.
        name: What messages call the file.
        test_mode: Whether the file is for validation or testing, and may lack classes.
        is_default: Whether `classes` are the data set's own, which the config does not override.

    Returns:
        Issues, and the categories in the order of `classes`, followed by those that no class names. A class that the
        file lacks has a category with an unused id.
    """
    if isinstance(classes, str):
        message = f'metainfo.classes={classes!r} is not a list of names; write ({classes!r}, )'
        return [_config_error(message, name)], categories
    if not categories:
        message = f'{name}: its list of categories is empty; write one of id and name for each class'
        return [Issue('classes', message, name)], categories
    for category in categories:
        if not isinstance(category['name'], (str, int, float)):
            message = f'{name}: category {category["id"]!r} has the name {shorten(category["name"])}; write a text'
            return [Issue('classes', message, name)], categories
    categories = [{**category, 'name': str(category['name'])} for category in categories]
    classes = list(map(str, classes))
    for names, where, remedy in (
        ([category['name'] for category in categories], f'{name}: has two categories with', 'merge or rename them'),
        (classes, 'metainfo.classes: has twice', 'write each class once'),
    ):
        twice = [key for key, count in Counter(names).items() if count > 1]
        if twice:
            return [_config_error(f'{where} the name {quote_some(twice)}; {remedy}', name)], categories
    by_name = {category['name']: category for category in categories}
    absent = [cls for cls in classes if cls not in by_name]
    unnamed = [category for category in categories if category['name'] not in classes]
    issues = []
    if absent and (is_default or len(absent) == len(classes) or unnamed and not test_mode):
        message = (
            f'metainfo.classes: {quote_some(absent)} not in the categories of {name}, which has '
            f'{quote_some([category["name"] for category in categories])}{_similar(absent, unnamed)}; set '
            'metainfo=dict(classes=(...)) to names of that file'
        )
        issues.append(_config_error(message, name))
    elif absent:
        also = (
            f'; its categories {quote_some([category["name"] for category in unnamed])} are not used' if unnamed else ''
        )
        message = f'{name}: has no category for {quote_some(absent)} of metainfo.classes{also}'
        level = 'note' if test_mode else 'warning'
        issues.append(Issue('class without category', message, name, level=level))
    ids = {category['id'] for category in categories}
    unused = (number for number in range(1, len(ids) + len(absent) + 2) if number not in ids)
    ordered = [by_name.get(cls) or dict(id=next(unused), name=cls) for cls in classes]
    return issues, ordered + unnamed


def find_kind_issues(metainfo: dict, categories: list[dict], name: str) -> list[Issue]:
    """Checks thing and stuff classes against an annotation file: MMDetection's labels are things first, then stuff.

    Args:
        metainfo: With `classes`, `thing_classes` and `stuff_classes`.
        categories: The file's valid categories, in the order of `classes`.
        name: What messages call the file.
    """
    kinds: dict[bool, list] = {True: [], False: []}
    for category in categories[: len(metainfo['classes'])]:
        if 'isthing' not in category:
            message = f'{name}: category {category["id"]!r} lacks isthing; add 1 for things or 0 for stuff'
            return [Issue('classes', message, name)]
        kinds[bool(category['isthing'])].append(category['name'])
    for key, kind in (('thing_classes', True), ('stuff_classes', False)):
        if list(metainfo.get(key, ())) != kinds[kind]:
            message = (
                f'metainfo.{key}: {name} has isthing={kind:d} for other classes, or in another order; '
                f'write {key}={tuple(kinds[kind])!r}'
            )
            return [_config_error(message, name)]
    if list(metainfo['classes']) != kinds[True] + kinds[False]:
        message = f'metainfo.classes: list all things first; write classes={tuple(kinds[True] + kinds[False])!r}'
        return [_config_error(message, name)]
    return []


def _config_error(message: str, name: str) -> Issue:
    return Issue('classes', message, name, error=ConfigError)


def _similar(absent: list, unnamed: list[dict]) -> str:
    """Returns a hint if a name differs only in case, spaces or type."""
    names = {str(category['name']).strip().lower(): category['name'] for category in unnamed}
    for cls in absent:
        if str(cls).strip().lower() in names:
            return f' ({cls!r} is written {names[str(cls).strip().lower()]!r} there)'
    return ''
