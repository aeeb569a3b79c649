"""tools/benchmark.py collect: logs of MMEngine, whole, resumed, cut off and hostile."""

import argparse
import json
import math
from pathlib import Path

import pytest
from mmengine.config import Config

from mmfocal.benchmark.paper import collect as module
from mmfocal.benchmark.paper.collect import collect
from mmfocal.engine.config_text import literal_settings
from mmfocal.errors import MissingFileError

LOG = """2026/01/01 00:00:00 - mmengine - INFO -
------------------------------------------------------------
System environment:
    Python: 3.11.7 (main)
    CUDA available: True
    GPU 0,1,2,3,4,5,6,7: NVIDIA A100-SXM4-80GB
    PyTorch: 2.13.0+cu130
    MMEngine: 0.10.7

Runtime environment:
    seed: 7
    GPU number: 8
------------------------------------------------------------
    seed: 8
2026/01/01 01:00:00 - mmengine - INFO - Epoch(val) [1][ 50/625]    eta: 0:01:00
2026/01/01 01:01:00 - mmengine - INFO - Epoch(val) [1][625/625]    coco/bbox_mAP: 0.1000
"""
CONFIG = """train_cfg = dict(max_epochs=3, type='EpochBasedTrainLoop')
train_dataloader = dict(batch_size=2, dataset=dict(scale=(1333, -1)))
test_dataloader = dict(batch_size=1)
evil = __import__('os').mkdir('/tmp/mmfocal_was_here')
"""


def step(iteration, epoch=1, **values):
    return dict(dict(loss=2.0, time=0.5, memory=4000, iter=iteration, epoch=epoch, step=iteration, lr=1e-4), **values)


def validation(number, ap, **values):
    return {
        'coco/bbox_mAP': ap,
        'coco/bbox_mAP_50': 0.3,
        'coco/bbox_mAP_l': -1.0,
        'coco/segm_mAP': ap / 2,
        'time': 0.1,
        'step': number,
        **values,
    }


def write(work_dir, records, date='20260101_000000', log=LOG, config=CONFIG, name='mine.py'):
    """A work directory; records are dicts, or lines as they are."""
    folder = work_dir / date
    (folder / 'vis_data').mkdir(parents=True)
    text = ''.join(one if isinstance(one, str) else json.dumps(one) + '\n' for one in records)
    (folder / 'vis_data/scalars.json').write_text(text)
    (folder / f'{date}.log').write_text(log)
    (work_dir / name).write_text(config)
    return work_dir


def test_a_training(tmp_path):
    write(
        tmp_path / 'a',
        [
            step(50, time=9.0),
            step(100, time=0.5),
            step(150, time=0.6),
            validation(1, 0.2),
            step(200, 2, memory=5000),
            validation(2, 0.4),
            step(250, 3),
            validation(3, 0.3),
        ],
    )
    (run,), notes = collect(str(tmp_path))
    assert not notes and not Path('/tmp/mmfocal_was_here').exists()
    assert run['name'] == 'a' and run['config'] == 'mine'
    assert run['best']['box_ap'] == 40.0 and run['last'] == dict(
        box_ap=30.0, box_ap50=30.0, mask_ap=15.0, step=3, time=0.1
    )
    assert (run['done'], run['planned'], run['unit'], run['seconds_an_iteration'], run['memory_mib']) == (
        3,
        3,
        'epoch',
        0.5,
        5000,
    )
    assert (run['gpus'], run['batch'], run['seed'], run['gpu'], run['validation_batches']) == (
        8,
        16,
        7,
        'NVIDIA A100-SXM4-80GB',
        625,
    )
    assert run['packages'] == dict(python='3.11.7', torch='2.13.0+cu130', mmengine='0.10.7')
    assert run['settings']['train_dataloader']['dataset']['scale'] == [1333, -1] and 'evil' not in run['settings']
    assert run['curves']['validation'] == [(1, 20.0), (2, 40.0), (3, 30.0)]


def test_segmentation_and_a_test_alone(tmp_path):
    records = [dict(loss=1.0, time=0.2, iter=50, step=50), dict(mIoU=35.5, aAcc=80.0, mAcc=40.0, time=0.1, step=100)]
    write(tmp_path / 'seg', records, config='train_cfg = dict(max_iters=200)\n')
    folder = tmp_path / 'test/20260102_000000'
    folder.mkdir(parents=True)
    (folder / f'{folder.name}.json').write_text('{"mIoU": 36.25, "time": 0.1}')
    (segmentation, tested), notes = collect(str(tmp_path))
    assert not notes and segmentation['last']['miou'] == 35.5
    assert (segmentation['done'], segmentation['planned'], segmentation['unit']) == (100, 200, 'iteration')
    assert tested['test'] == dict(miou=36.25) and tested['done'] is None and tested['last'] is None


def test_a_resumed_training_replaces_repeated_iterations(tmp_path):
    write(tmp_path, [step(50), validation(1, 0.1), step(100, 2, loss=7.0), step(150, 2, loss=8.0)])
    write(tmp_path, [step(100, 2, loss=3.0), validation(2, 0.2)], '20260102_000000')
    write(tmp_path, [], '20260103_000000')
    (run,), notes = collect(str(tmp_path))
    assert (
        not notes
        and run['curves']['loss'] == [(50, 2.0), (100, 3.0)]
        and run['curves']['validation'] == [(1, 10.0), (2, 20.0)]
    )
    assert run['dates'] == ['20260101_000000', '20260102_000000', '20260103_000000']


def test_interrupted_training(tmp_path):
    write(tmp_path, [step(50), validation(1, 0.1), step(100, 2)])
    assert collect(str(tmp_path))[0][0]['done'] == 1
    (tmp_path / 'last_checkpoint').write_text('/somewhere/epoch_2.pth')
    assert collect(str(tmp_path))[0][0]['done'] == 2


@pytest.mark.parametrize(
    'records, note, points',
    [
        ([step(50), '{"loss": 1.0, "it'], 'scalars.json: its last line, 2, is cut off; the line is skipped', 1),
        (
            [step(50), '{"loss"\n', step(100)],
            'scalars.json: line 2 is not a record of MMEngine; the file is skipped',
            0,
        ),
        ([step(50), '[1, 2]\n', step(100)], 'scalars.json: line 2 is not a record', 0),
        ([step(50), '[' * 100000 + '\n', step(100)], 'scalars.json: line 2 is not a record', 0),
    ],
)
def test_damaged_logs(tmp_path, records, note, points):
    write(tmp_path / 'bad', records)
    write(tmp_path / 'good', [step(50), validation(1, 0.2)])
    (bad, good), notes = collect(str(tmp_path))
    assert len(notes) == 1 and note in notes[0] and str(tmp_path / 'bad') in notes[0]
    assert len(bad['curves']['loss']) == points and good['best']['box_ap'] == 20.0


def test_hostile_files(tmp_path, monkeypatch):
    huge = 10**400
    records = [
        step('50'),
        step(True),
        step(50, loss=float('nan'), time=float('inf'), memory='big'),
        step(100, loss=huge, time=[1]),
        {'coco/bbox_mAP': 'high', 'step': 1},
        {'coco/bbox_mAP': 0.5, 'step': None},
        validation(1, 0.5, time={}),
    ]
    write(tmp_path / 'a', records, config='x = ' + '(' * 100000)
    (tmp_path / 'a/20260101_000000/vis_data/config.py').write_bytes(b'\xff\xfe\x00')
    (tmp_path / 'a/benchmark.json').write_text(
        '{"config": 5, "metrics": [1], "packages": [2], "cfg_options": [3], "failed": {}, "gpus": "8"}'
    )
    (tmp_path / 'a/20260101_000000/20260101_000000.json').write_text('[]')
    write(tmp_path / 'b', []).joinpath('benchmark.json').write_text('{"half')
    (tmp_path / 'b/20260101_000000/vis_data/scalars.json').write_bytes(bytes(range(256)) * 4)
    monkeypatch.setattr('pickle.load', None)
    monkeypatch.setattr('torch.load', None)
    (first, second), notes = collect(str(tmp_path))
    assert first['best']['box_ap'] == 50.0 and first['seconds_an_iteration'] is None and first['curves']['loss'] == []
    assert (
        first['packages'] == dict(python='3.11.7', torch='2.13.0+cu130', mmengine='0.10.7')
        and first['config'] == 'mine'
    )
    assert first['failed'] is None and second['last'] is None
    for name in (
        'a/mine.py',
        'config.py',
        'a/20260101_000000/20260101_000000.json',
        'b/benchmark.json',
        'b/20260101_000000/vis_data/scalars.json',
    ):
        assert any(name in note for note in notes), name
    json.dumps([first, second], allow_nan=False)


def test_config_dumps_are_not_executed():
    settings = literal_settings(
        'a = dict(b=[1, (2, -3.5)], c={"d": None})\n'
        'e = dict(f=print(1))\ng = open("x")\nh = dict(*a)\nimport os\ni: int = 1\nj = {**a, 1: 2}'
        '\nk = dict(**a)\nl = {[1]: 2}'
    )
    assert settings == dict(a=dict(b=[1, [2, -3.5]], c=dict(d=None)))


def test_config_dumps_may_have_keys_that_are_no_names():
    settings = dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys={'a.b': dict(lr=1), 'c': [-math.inf]})), d={1: 2})
    assert literal_settings(Config(settings).pretty_text) == settings


def test_the_command(tmp_path, capsys):
    write(tmp_path / 'mine', [step(50), validation(1, 0.2), '{'])
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.main(parser.parse_args([str(tmp_path)]))
    output = capsys.readouterr().out
    assert '20.0' in output and '1/3 epochs' in output and 'is cut off' in output
    assert json.loads((tmp_path / 'collected.json').read_text())['runs'][0]['best']['box_ap'] == 20.0
    with pytest.raises(MissingFileError, match='no such folder'):
        collect(str(tmp_path / 'none'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(MissingFileError, match='contains no work directory of a training'):
        collect(str(tmp_path / 'empty'))
