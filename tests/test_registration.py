import subprocess
import sys

WITHOUT_LIBRARIES = """
import importlib.util, sys
blocked = ('mmdet', 'mmcv', 'mmseg')
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in blocked else find_spec(name, package)

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] in blocked:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker)
import mmfocal.registration
from mmengine.registry import MODELS
MODELS.build(dict(type='FocalTransformer', arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))))
"""


def test_the_backbone_needs_neither_mmdet_nor_mmseg():
    subprocess.run([sys.executable, '-c', WITHOUT_LIBRARIES], check=True)
