"""The data sets inside wrappers are found, built or configured."""

import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from mmfocal.datasets.wrappers import iterate_inner


class Plain(BaseDataset):
    METAINFO = dict(classes=('a',))

    def load_data_list(self):
        return [dict(instances=[dict(bbox_label=0)])] * 3

    def get_cat_ids(self, idx):
        return [0]


WRAPPERS = [
    dict(type='RepeatDataset', times=2),
    dict(type='ClassBalancedDataset', oversample_thr=0.5),
    dict(type='mmdet.MultiImageMixDataset', pipeline=[]),
    dict(type='mmdet.ConcatDataset'),
    dict(type='ConcatDataset'),
]


@pytest.mark.parametrize('outer', [WRAPPERS[0], *WRAPPERS[2:]], ids=lambda wrapper: wrapper['type'])
@pytest.mark.parametrize('inner', WRAPPERS, ids=lambda wrapper: wrapper['type'])
def test_wrappers_in_wrappers(outer, inner):
    init_default_scope('mmdet')

    def wrap(wrapper, dataset):
        return dict(wrapper, datasets=[dataset] * 2) if 'Concat' in wrapper['type'] else dict(wrapper, dataset=dataset)

    DATASETS.register_module(name='Plain', module=Plain, force=True)
    cfg = wrap(outer, wrap(inner, dict(type='Plain', serialize_data=False)))
    number = 2 ** (('Concat' in outer['type']) + ('Concat' in inner['type']))
    assert [one['type'] for one in iterate_inner(cfg)] == ['Plain'] * number
    assert [type(one) for one in iterate_inner(DATASETS.build(cfg))] == [Plain] * number


def test_a_data_set_that_is_not_wrapped():
    dataset = Plain(serialize_data=False)
    assert list(iterate_inner(dataset)) == [dataset]
