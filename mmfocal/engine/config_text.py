"""Reading a config as text: nothing of it is executed."""

import ast
import math
from typing import Any

_NUMBERS = dict(inf=math.inf, nan=math.nan)  # as `str` writes them, in the configs that MMEngine saves


def literal_settings(source: str) -> dict[str, Any]:
    """Returns the assignments in Python source whose values are literals or `dict(…)` of them, without running it.

    Tuples become lists.

    Raises:
        SyntaxError: If the source is not Python.
        ValueError: If it contains null bytes.
    """
    settings = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                settings[node.targets[0].id] = _with_lists(_literal(node.value))
            except (ValueError, TypeError):  # an expression, or a list as a key
                continue
    return settings


def read_settings(source: str) -> dict[str, Any]:
    """Returns the assignments of a saved config, of which all values are literals, without running it.

    Tuples stay tuples.

    Args:
        source: Text such as `Config.pretty_text`.

    Raises:
        ValueError: If it is not Python, or holds anything else; the message says where.
    """
    settings = {}
    try:
        tree = ast.parse(source)
        for node in tree.body:
            if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
                raise ValueError(f'line {node.lineno} is no assignment of a value to a name')
            settings[node.targets[0].id] = _literal(node.value)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:  # a list as a key; nested too deeply
        raise ValueError(f'not Python ({getattr(error, "msg", None) or type(error).__name__})') from error
    return settings


def _literal(node: ast.expr) -> Any:
    """Evaluates a literal, or `dict(…)` of literals; raises ValueError for anything else, also deep inside."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        # MMEngine writes dict({'a key': 1}) for keys that are no names
        parts = [_literal(one) for one in node.args if isinstance(one, ast.Dict)]
        if len(parts) == len(node.args) <= 1 and all(keyword.arg for keyword in node.keywords):
            first = parts[0] if parts else {}
            return first | {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and all(node.keys):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values) if key}
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.Name) and node.id in _NUMBERS:
        return _NUMBERS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name):
        return -_literal(node.operand)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f'line {node.lineno} holds an expression, {ast.unparse(node)[:40]}') from error


def _with_lists(value: Any) -> Any:
    """Returns settings with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: _with_lists(one) for key, one in value.items()}
    return [_with_lists(one) for one in value] if isinstance(value, (list, tuple)) else value
