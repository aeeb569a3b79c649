"""The law of imports: which room of the package may import which, and which libraries it needs."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmfocal'
# From the ground up: a room may import its own level and those before it.
LEVELS = (
    ('errors', 'files', 'memory', 'text', 'ops'),
    ('weights',),
    ('models',),
    ('datasets',),
    ('engine',),
    ('inference', 'visualization'),
    ('registration',),
    ('benchmark',),
    ('cli', '__main__'),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
OPENMMLAB = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}


def modules() -> dict[str, Path]:
    """Returns the package's modules by dotted name."""
    found = {}
    for path in PACKAGE.rglob('*.py'):
        if '.mim' not in path.parts:
            parts = path.relative_to(ROOT).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Returns the modules that a module imports anywhere in its code, also inside functions."""
    path, found = MODULES[name], set()
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split('.')
            base = '.'.join(parents[: len(parents) - node.level + 1]) if node.level else ''
            module = '.'.join(filter(None, (base, node.module)))
            for alias in node.names:  # `from package import module` is an import of the module
                whole = f'{module}.{alias.name}'
                found.add(whole if whole in MODULES else module)
    return found


def room(name: str) -> str:
    return name.split('.')[1] if '.' in name else ''


@pytest.mark.parametrize('name', sorted(MODULES))
def test_a_room_imports_only_rooms_below_it(name):
    if not room(name):
        return
    for imported in imports(name):
        if imported.split('.')[0] == 'mmfocal' and room(imported):
            assert LEVEL[room(imported)] <= LEVEL[room(name)], f'{name} imports {imported}'
        assert imported.split('.')[0] not in ('tools', 'dev', 'tests'), f'{name} imports {imported}'


def test_there_is_no_import_circle_even_inside_functions():
    graph = {name: {one for one in imports(name) if one in MODULES and one != name} for name in MODULES}
    for name, below in graph.items():  # a package's `__init__` may name its own modules
        graph[name] = {one for one in below if not name.startswith(f'{one}.')}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


@pytest.mark.parametrize(
    'module, blocked',
    [
        ('mmfocal.ops.focal_attention', OPENMMLAB | {'numpy', 'triton', 'cv2', 'pycocotools'}),
        # MMEngine itself needs NumPy and OpenCV
        ('mmfocal.weights', {'mmcv', 'mmdet', 'mmseg', 'pycocotools'}),
        ('mmfocal.models', {'mmcv', 'mmdet', 'mmseg', 'pycocotools'}),
        ('mmfocal.engine', {'mmdet', 'mmseg'}),
    ],
)
def test_a_room_needs_no_other_libraries(module, blocked):
    # None in sys.modules: for `import` and `find_spec` the library is not installed. PyTorch imports NumPy where it can
    code = f"""
import sys
import torch

sys.modules.update(dict.fromkeys({blocked!r}))
import {module}
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_registration_does_not_import_the_benchmark():
    code = "import sys, mmfocal.registration; assert not [n for n in sys.modules if n.startswith('mmfocal.benchmark')]"
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
