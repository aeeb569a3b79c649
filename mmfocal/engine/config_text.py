"""Reading a config as text: nothing of it is executed."""

import ast
from typing import Any


def literal_settings(source: str) -> dict[str, Any]:
    """Returns the assignments in Python source whose values are literals or `dict(…)` of them, without running it.

    Raises:
        SyntaxError: If the source is not Python.
        ValueError: If it contains null bytes.
    """
    settings = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                settings[node.targets[0].id] = _literal(node.value)
            except ValueError:  # an expression
                continue
    return settings


def _literal(node: ast.AST) -> Any:
    """Evaluates a literal; raises ValueError if it is an expression."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _literal(value) for key, value in zip(node.keys, node.values) if key}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
