"""MMPretrain beside a transformers that is too new for its multimodal models."""

import os
import subprocess
import sys

CODE = """
import mmfocal.registration
from mmengine.registry import MODELS, init_default_scope

init_default_scope('mmpretrain')
assert MODELS.build(dict(type='GlobalAveragePooling'))
try:
    MODELS.build(dict(type='BlipCaption'))
except ImportError as error:
    print(error)
"""


def test_a_newer_transformers_does_not_stop_the_import(tmp_path):
    info = tmp_path / 'transformers-4.57.6.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: transformers\nVersion: 4.57.6\n')
    package = tmp_path / 'transformers'
    package.mkdir()
    (package / '__init__.py').write_text('')  # without the names that MMPretrain imports
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, '-c', CODE], env=os.environ | {'PYTHONPATH': path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'requires extra multi-modal dependencies' in done.stdout
