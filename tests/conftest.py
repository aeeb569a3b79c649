import pytest

from mmfocal.datasets.shapes import make_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A small generated data set: 8 training and 4 validation images of 64 px."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(str(folder), num_train=8, num_val=4, seed=0, size=(64, 64))
    return folder
