"""tools/benchmark.py run: with scripts that act a training, and a real cell."""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmfocal.benchmark.paper import run
from mmfocal.benchmark.paper.collect import collect
from mmfocal.benchmark.paper.jobs import last_error
from mmfocal.benchmark.paper.tables import table_rows
from mmfocal.errors import ConfigError

ROOT = Path(__file__).parents[3]
TRAIN = """
import os, sys, time
from pathlib import Path
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
with open(work_dir / 'calls', 'a') as stream:
    print(*sys.argv[1:], file=stream)
if 'swin' in sys.argv[1] and 'mended' not in os.environ:
    print('ValueError: an old one\\nerror: COCO_ROOT=data/coco/: not there\\nbye')
    sys.exit(1)
(work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
while 'slow' in os.environ:
    time.sleep(0.1)
"""
TEST = """
import json, sys
from pathlib import Path
assert sys.argv[2].endswith('epoch_1.pth')
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1]) / '20260101_000000'
folder.mkdir(parents=True, exist_ok=True)
(folder / '20260101_000000.json').write_text('{"coco/bbox_mAP": 0.25, "coco/bbox_mAP_l": -1.0, "time": NaN}')
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Table 5's configs and tools/, all empty but for two scripts."""
    for folder in ('configs', 'tools'):
        (tmp_path / folder).mkdir()
    for row in table_rows('5'):
        (tmp_path / 'configs' / f'{row["config"]}.py').touch()
    (tmp_path / 'tools/train.py').write_text(TRAIN)
    (tmp_path / 'tools/test.py').write_text(TEST)
    monkeypatch.setattr(run, 'git_commit', lambda: 'abc')
    return tmp_path


def arguments(project, *args):
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return argparse.Namespace(
        configs=project / 'configs',
        **vars(parser.parse_args(['--table', '5', '--work-root', str(project / 'work'), *args])),
    )


def calls(project, name):
    path = project / 'work' / name / 'calls'
    return path.read_text().splitlines() if path.is_file() else []


def test_continues_after_a_failure_skips_finished_cells_and_resumes(project, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        run.main(arguments(project, '--only', 'atss', '--cfg-options', 'a=1', 'b=[2,3]'))
    output = capsys.readouterr().out
    assert stop.value.code == 1 and '2 done, 0 finished before, 1 failed' in output
    assert '- atss_swin_tiny_3x: error: COCO_ROOT=data/coco/: not there (exit code 1, ' in output
    (first,) = calls(project, 'atss_r50_3x')
    assert first.endswith('--auto-scale-lr --cfg-options a=1 b=[2,3]') and '--resume' not in first
    record = json.loads((project / 'work/atss_r50_3x/benchmark.json').read_text())
    assert record['metrics']['test'] == {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_l': -1.0} and record['commit'] == 'abc'
    assert 'not there' in json.loads((project / 'work/atss_swin_tiny_3x/benchmark.json').read_text())['failed']

    (project / 'work/atss_focal_tiny_3x/benchmark.json').write_text('{"half')  # as if it had never been tested
    monkeypatch.setenv('mended', '1')
    run.main(arguments(project, '--only', 'atss', '--cfg-options', 'a=1', 'b=[2,3]'))
    assert '2 done, 1 finished before, 0 failed' in capsys.readouterr().out
    assert len(calls(project, 'atss_r50_3x')) == 1
    assert ' --resume --auto-scale-lr ' in calls(project, 'atss_focal_tiny_3x')[1]
    with pytest.raises(
        ConfigError, match='was started with --cfg-options a=1 b=.*give the same or another --work-root'
    ):
        run.main(arguments(project, '--only', 'atss', '--cfg-options', 'a=2'))
    runs, notes = collect(str(project / 'work'))
    assert not notes and [one['test']['box_ap'] for one in runs] == [25.0] * 3 and 'box_ap_l' not in runs[0]['test']


def test_a_job_without_a_checkpoint_or_results(project, capsys):
    (project / 'tools/train.py').write_text('')
    with pytest.raises(SystemExit):
        run.main(arguments(project, '--only', 'atss_r50_3x'))
    assert 'does not exist; training ended without a checkpoint' in capsys.readouterr().out
    (project / 'tools/train.py').write_text(TRAIN)
    (project / 'tools/test.py').write_text('')
    with pytest.raises(SystemExit):
        run.main(arguments(project, '--only', 'atss_r50_3x'))
    assert 'the test wrote no results' in capsys.readouterr().out


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_jobs(project, monkeypatch, number, capsys):
    monkeypatch.setenv('slow', '1')
    work_dir = project / 'work/atss_r50_3x'

    def stop():
        while not (work_dir / 'last_checkpoint').is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments(project, '--only', 'atss'))
    assert stopped.value.code == 130 and signal.getsignal(number) is before
    assert not calls(project, 'atss_focal_tiny_3x'), 'the cells after it have not started'
    with open(work_dir / '.lock') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the job is gone
    assert 'failed' not in json.loads((work_dir / 'benchmark.json').read_text())
    monkeypatch.delenv('slow')
    run.main(arguments(project, '--only', 'atss_r50_3x'))
    assert '--resume' in calls(project, 'atss_r50_3x')[1] and '1 done' in capsys.readouterr().out


def test_a_cell_in_use_by_another_run(project, capsys):
    work_dir = project / 'work/atss_r50_3x'
    work_dir.mkdir(parents=True)
    with open(work_dir / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            run.main(arguments(project, '--only', 'atss_r50_3x'))
    assert 'is in use by another run or by a job of an earlier one' in capsys.readouterr().out


def test_dry_run_prints_commands_for_a_shell(project, capsys):
    run.main(arguments(project, '--only', 'atss,r50', '--dry-run', '--cfg-options', 'a=[1, 2]'))
    train, test = capsys.readouterr().out.splitlines()
    assert train == (
        f'{sys.executable} {project}/tools/train.py {project}/configs/atss_r50_3x.py '
        f"--work-dir {project}/work/atss_r50_3x --auto-scale-lr --cfg-options 'a=[1, 2]'"
    )
    assert not (project / 'work').exists()
    (project / 'work/atss_r50_3x').mkdir(parents=True)
    for command in (train, test):
        assert subprocess.run(['bash', '-c', command]).returncode == 0
    run.main(
        arguments(
            project, '--only', 'cascade_mask_rcnn,focal_tiny', '--dry-run', '--launcher', 'pytorch', '--gpus', '4'
        )
    )
    train, test = capsys.readouterr().out.splitlines()
    assert f'dist_train.sh {project}/configs/cascade_mask_rcnn_focal_tiny_3x.py 4 --work-dir' in train
    assert f'.py "$(cat {project}/work/cascade_mask_rcnn_focal_tiny_3x/last_checkpoint)" 4 --work-dir' in test
    run.main(arguments(project, '--dry-run', '--launcher', 'slurm', '--partition', 'gpu'))
    lines = capsys.readouterr().out.splitlines()
    work_dir = f'{project}/work/cascade_mask_rcnn_r50_3x'
    assert len(lines) == 24 and lines[0] == (
        f'GPUS=8 GPUS_PER_NODE=8 {project}/tools/slurm_train.sh gpu cascade_mask_rcnn_r50_3x '
        f'{project}/configs/cascade_mask_rcnn_r50_3x.py {work_dir} --auto-scale-lr'
    )


def test_slurm_runs_all_cells_at_once(project, capsys):
    for name in ('train', 'test'):
        script = project / f'tools/slurm_{name}.sh'
        more = '--work-dir "$4" "${@:5}"' if name == 'train' else '"${@:4}"'
        script.write_text(
            f'#!/bin/bash\n[ "$1 $GPUS $GPUS_PER_NODE" = "gpu 16 8" ] || exit 1\n'
            f'exec {sys.executable} {project}/tools/{name}.py "$3" {more}\n'
        )
        script.chmod(0o755)
    with pytest.raises(SystemExit):
        run.main(arguments(project, '--launcher', 'slurm', '--partition', 'gpu', '--gpus', '16'))
    assert '8 done, 0 finished before, 4 failed' in capsys.readouterr().out


@pytest.mark.parametrize(
    'args, error',
    [
        (['--gpus', '2'], '--gpus: needs --launcher pytorch or slurm'),
        (['--launcher', 'slurm'], '--launcher slurm: needs --partition NAME'),
        (['--launcher', 'pytorch', '--gpus', '0'], '--gpus 0: is not a number of GPUs; give at least 1'),
        (['--only', 'atss,focal_huge'], '--only: no cell is named focal_huge; choose from cascade_mask_rcnn, atss, '),
        (['--only', 'atss,sparse_rcnn_r50_3x'], 'no cell of the table matches all of them'),
        (['--table', '6'], '--table 6: no such table with configs; choose from 2, 3, 4, 5, 8, 9, 10, ADE20K'),
        (['--shapes'], 'cascade_mask_rcnn_r_nano_shapes.py does not exist'),
    ],
)
def test_arguments_that_do_not_fit(project, args, error):
    with pytest.raises(ConfigError, match=error):
        run.main(arguments(project, *args))


@pytest.mark.parametrize(
    'table, count', [('3', 8), ('4', 8), ('5', 12), ('ADE20K', 1), *((table, 0) for table in ('2', '8', '9', '10'))]
)
def test_every_table_has_its_configs(table, count):
    args = argparse.Namespace(
        table=table,
        work_root='work',
        shapes=True,
        only=None,
        launcher='none',
        gpus=None,
        partition=None,
        configs=ROOT / 'configs',
    )
    if count:
        assert len(run.select(args)) == count
    cells = run.select(argparse.Namespace(**{**vars(args), 'shapes': False, 'gpus': None}))
    assert [cell['config'] for cell in cells] == [row['config'] for row in table_rows(table)]


@pytest.mark.parametrize(
    'text, expected',
    [
        (
            'Traceback\n[rank1]: RuntimeError: boom\n'
            'torch.distributed.elastic.multiprocessing.errors.ChildFailedError: x\n',
            'RuntimeError: boom',
        ),
        (
            'a\nmmfocal.errors.DataError: no image\nsrun: error: node1: task 0: Exited\n',
            'mmfocal.errors.DataError: no image',
        ),
        ('only this\n\n', 'only this'),
        ('', 'it printed nothing'),
    ],
)
def test_last_error(tmp_path, text, expected):
    path = tmp_path / 'log'
    path.write_text('error: of an earlier attempt\n' + text)
    assert last_error(path, len('error: of an earlier attempt\n')) == expected


@pytest.mark.slow
def test_a_real_cell(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    options = [
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.logger.interval=1',
        'model.test_cfg.score_thr=0.',
    ]
    for split in ('train', 'val', 'test'):
        options += [f'{split}_dataloader.num_workers=0', f'{split}_dataloader.persistent_workers=False']
    args = arguments(tmp_path, '--shapes', '--only', 'atss,r_nano', '--cfg-options', *options)
    args.configs = ROOT / 'configs'
    run.main(args)
    assert '1 done' in capsys.readouterr().out
    (found,), notes = collect(args.work_root)
    assert not notes and found['config'] == 'atss_r_nano_shapes' and (found['done'], found['planned']) == (1, 1)
    assert found['test'] == {key: value for key, value in found['last'].items() if key not in ('step', 'time')}
    assert len(found['curves']['loss']) == 2 and found['batch'] == 4 and found['seconds_a_test_batch'] > 0
    assert found['packages']['torch'] and found['memory_mib'] > 100 and found['gpus'] in (0, 1)


ABLATION = """
import os, sys
from pathlib import Path
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
with open(work_dir / 'weights', 'a') as stream:
    print(*(f'{name}={value}' for name, value in sorted(os.environ.items()) if '_TINY' in name), file=stream)
(work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
"""


@pytest.fixture
def ablation(project, monkeypatch):
    """Table 9's configs, and a training that writes down which weights it was given."""
    for row in table_rows('9'):
        (project / 'configs' / f'{row["config"]}.py').touch()
        monkeypatch.delenv(row['name'].upper(), raising=False)
    (project / 'tools/train.py').write_text(ABLATION)
    return project


def test_detectors_of_an_ablation_start_from_its_classifiers(ablation, capsys, monkeypatch):
    monkeypatch.setenv('FOCAL_TINY', 'mine.pth')
    run.main(arguments(ablation, '--table', '9'))
    assert '8 done, 0 finished before, 0 failed' in capsys.readouterr().out
    work = ablation / 'work'
    weights = {path.parent.name: path.read_text().split() for path in work.glob('*/weights')}
    assert len(weights) == 8
    for name, found in weights.items():
        own = f'{work}/{name[len("mask_rcnn_") : -len("_1x")]}_300e_imagenet/epoch_1.pth'
        assert found == ['FOCAL_TINY=mine.pth'] + {
            'mask_rcnn_focal_tiny_shift_1x': [f'FOCAL_TINY_SHIFT={own}'],
            'mask_rcnn_swin_tiny_no_shift_1x': [f'SWIN_TINY_NO_SHIFT={own}'],
        }.get(name, [])


def test_dry_run_of_an_ablation(ablation, capsys):
    run.main(arguments(ablation, '--table', '9', '--dry-run', '--only', 'focal_tiny_shift'))
    lines = capsys.readouterr().out.splitlines()
    folder = f'{ablation}/work/focal_tiny_shift_300e_imagenet'
    assert len(lines) == 4 and lines[2].startswith(f'FOCAL_TINY_SHIFT="$(cat {folder}/last_checkpoint)" ')
    assert not any('FOCAL_TINY_SHIFT=' in line for line in (*lines[:2], lines[3]))
    run.main(arguments(ablation, '--table', '9', '--dry-run', '--only', 'mask_rcnn,focal_tiny_shift'))
    assert 'FOCAL_TINY_SHIFT' not in capsys.readouterr().out, 'no classifier is trained before it'


def test_ablations_have_no_shapes(ablation):
    with pytest.raises(ConfigError, match='--shapes: Table 9 has none; choose Table 3, 4, 5 or ADE20K'):
        run.main(arguments(ablation, '--table', '9', '--shapes'))
