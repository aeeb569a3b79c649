"""`mmfocal plot-logs`: curves of work directories, resumed ones joined."""

import json
import sys

import cv2
import pytest

from mmfocal.benchmark.logs import default_keys, read_curves, table
from mmfocal.cli import main


def write_log(work_dir, run, iterations, validations=(), epoch=10, by_epoch=True):
    """Writes the log of a run: a record every 5 iterations, `epoch` of which are an epoch; loss names the run."""
    records = []
    for iteration in iterations:
        record = dict(lr=0.1, data_time=0.1, memory=100 + iteration, loss=float(run[-1]), time=0.5, iter=iteration)
        records.append(dict(record, step=iteration, **dict(epoch=(iteration - 1) // epoch + 1) if by_epoch else {}))
        for step, value in validations:
            if step * (epoch if by_epoch else 1) == iteration:
                records.append({'coco/bbox_mAP': value, 'data_time': 0.1, 'time': 0.2, 'step': step})
    path = work_dir / run / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(record) for record in records) + '\n')
    return path


def command(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', 'plot-logs', *map(str, args)])
    main()


@pytest.fixture
def resumed(tmp_path):
    """Stopped at iteration 25, resumed from the checkpoint at 20."""
    write_log(tmp_path / 'run', '20260101_000001', [5, 10, 15, 20, 25], [(1, 0.1), (2, 0.2)])
    write_log(tmp_path / 'run', '20260102_000002', [25, 30], [(3, 0.15)])
    return tmp_path / 'run'


def test_resumed_runs_are_one_curve(resumed):
    run = read_curves(resumed, [])
    assert run.train['loss'] == [(5, 1), (10, 1), (15, 1), (20, 1), (25, 2), (30, 2)]
    assert run.val == {'bbox_mAP': [(1, 0.1), (2, 0.2), (3, 0.15)]} and run.by_epoch
    assert default_keys([run]) == ['loss', 'lr', 'bbox_mAP', 'time', 'memory']


def test_validations_after_the_checkpoint_are_left_out(tmp_path):
    write_log(tmp_path, '20260101_000001', range(5, 45, 5), [(1, 0.1), (2, 0.2), (3, 0.9), (4, 0.9)])
    write_log(tmp_path, '20260102_000002', [25, 30], [(3, 0.3)])
    run = read_curves(tmp_path, [])
    assert run.val['bbox_mAP'] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [x for x, _ in run.train['loss']] == [5, 10, 15, 20, 25, 30]


def test_training_by_iterations(tmp_path):
    write_log(tmp_path, '20260101_000001', range(5, 45, 5), [(20, 0.1), (40, 0.9)], by_epoch=False)
    write_log(tmp_path, '20260102_000002', range(25, 45, 5), [(40, 0.2)], by_epoch=False)
    run = read_curves(tmp_path, [])
    assert run.val['bbox_mAP'] == [(20, 0.1), (40, 0.2)] and not run.by_epoch
    assert len(run.train['loss']) == 8


def test_the_table_has_last_and_best(resumed):
    row = table([read_curves(resumed, [])])[1]
    assert row[1:] == ['30', '2', '0.1', 'bbox_mAP', '0.15', '0.2', '2', '0.5', '130']


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_the_picture_shows_several_runs(suffix, resumed, tmp_path, monkeypatch, capsys):
    write_log(tmp_path / 'other $1$', '20260101_000003', [5, 10])
    out = tmp_path / f'new/logs.{suffix}'
    command(monkeypatch, resumed, tmp_path / 'other $1$', '--out', out)
    assert str(out) in capsys.readouterr().out
    if suffix == 'png':
        assert cv2.imread(str(out)).std() > 5
    else:
        assert 'bbox_mAP' in out.read_text() or '<svg' in out.read_text()


def test_a_damaged_log_is_a_note(resumed, tmp_path, monkeypatch, capsys):
    path = write_log(resumed, '20260103_000003', [35])
    path.write_text('{"loss": 1}\nno JSON\n{}\n')
    command(monkeypatch, resumed, '--out', tmp_path / 'logs.png')
    assert f'note: {path}: line 2 is not a record' in capsys.readouterr().out


@pytest.mark.parametrize(
    'args, message',
    [
        (['empty'], 'empty: no log of a training in it; name its work directory'),
        (['none'], 'none: no such folder; name a work directory'),
        (['run', '--out', 'logs.txt'], '--out: logs.txt cannot be written; use the suffix .png, .svg, .pdf'),
        (['run', '--keys', 'accuracy'], '--keys: no log has accuracy; write one of bbox_mAP, data_time, loss, lr'),
    ],
)
def test_mistakes_are_one_sentence(args, message, resumed, tmp_path, monkeypatch, capsys):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command(monkeypatch, *args)
    assert f'error: {message}' in capsys.readouterr().err
    assert not (tmp_path / 'logs.txt').exists()
