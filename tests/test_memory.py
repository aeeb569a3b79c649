import importlib
import os
import subprocess
import sys

import pytest

from mmfocal import memory
from mmfocal.text import join_some


def test_resident_memory_sees_an_allocation():
    """In a process of its own: this one may reuse memory that earlier tests have freed."""
    code = """
import numpy as np
from mmfocal import memory
before = memory.resident_memory()
block = np.ones(2**23)  # 64 MiB
assert 0.7 < (memory.resident_memory() - before) / block.nbytes < 1.3
assert memory.peak_resident_memory() >= memory.resident_memory() * 0.9
assert memory.process_status('VmHWM') and memory.process_status('VmNone') is None
"""
    subprocess.run([sys.executable, '-c', code], check=True)


def test_of_another_process():
    with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as process:
        assert memory.resident_memory(process.pid) < memory.resident_memory(os.getpid())


def test_units_of_macos_and_no_resource_module_on_windows(monkeypatch):
    linux = memory.peak_resident_memory()
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert memory.peak_resident_memory() == pytest.approx(linux / 1024, rel=0.3)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, 'resource', None)
    try:
        assert importlib.reload(memory).peak_resident_memory() is None
    finally:
        monkeypatch.undo()
        importlib.reload(memory)


@pytest.mark.parametrize('names, text', [('abc', 'a, b, c'), ('abcd', 'a, b, c and 1 more'), ('', '')])
def test_join_some(names, text):
    assert join_some(names, limit=3) == text
