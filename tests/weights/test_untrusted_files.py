"""Every command that reads a checkpoint or a work directory refuses one that asks for code, and runs none."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from test_safe_loading import bomb, save, set_off

import mmfocal.registration  # noqa: F401
from mmfocal.errors import CheckpointError

ROOT = Path(__file__).parents[2]
NANO = 'configs/atss_focal_nano_shapes.py'
QUICK = [
    'model.backbone.arch.depths=(1,1,1,1)',
    *(
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ),
]


@pytest.fixture
def armed(tmp_path):
    """Returns the file that a hostile checkpoint would create, and a work directory with that checkpoint."""
    marker, work_dir = tmp_path / 'ran', tmp_path / 'work'
    work_dir.mkdir()
    content = bomb('eval', marker)
    save(
        dict(state_dict=content, model=content, meta=content, message_hub={}, optimizer={}),
        work_dir / 'epoch_1.pth',
        'zip',
    )
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    return marker, work_dir


def run(monkeypatch, capfd, script, *args):
    """Runs a script of tools/ in this process; returns its exit code and its output."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
    try:
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    'script, args, options',
    [
        ('test.py', [NANO, 'BOMB'], QUICK),
        ('train.py', [NANO, '--resume', 'BOMB'], QUICK),
        ('train.py', [NANO, '--resume'], QUICK),
        ('train.py', [NANO], [*QUICK, 'load_from=BOMB']),
        (
            'train.py',
            ['configs/retinanet_focal_nano_shapes.py'],
            [*QUICK, 'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=BOMB'],
        ),
        ('train.py', [NANO], [*QUICK, 'model.init_cfg.type=Pretrained', 'model.init_cfg.checkpoint=BOMB']),
        ('visualize.py', ['heatmaps', 'configs/reppointsv2_focal_nano_shapes.py', 'BOMB', 'IMAGE'], None),
        ('model_converters/released_to_mmfocal.py', ['BOMB', 'WORK/converted.pth'], None),
    ],
    ids=['test', 'resume', 'resume auto', 'load_from', 'backbone', 'detector', 'visualize', 'convert'],
)
def test_tools_run_no_code_of_a_checkpoint(script, args, options, armed, shapes, monkeypatch, capfd):
    marker, work_dir = armed
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    image = next((shapes / 'val2017').iterdir())
    if options:
        args = [*args, '--work-dir', 'WORK', '--cfg-options', *options]
    values = dict(BOMB=work_dir / 'epoch_1.pth', WORK=work_dir, IMAGE=image)
    for name, value in values.items():
        args = [arg.replace(name, str(value)) for arg in args]
    code, output = run(monkeypatch, capfd, script, *args)
    assert not marker.exists()
    assert code == 1 and f'error: {work_dir}/epoch_1.pth: it asks for' in output and 'nothing was run' in output
    assert not (work_dir / 'converted.pth').exists()
    set_off(work_dir / 'epoch_1.pth', 'zip')
    assert marker.exists()


@pytest.mark.parametrize('command', ['collect', 'report'])
def test_benchmark_runs_no_code_of_a_work_directory(command, armed, monkeypatch, capfd):
    marker, work_dir = armed
    code = f"open({str(marker)!r}, 'w').close()"
    run_dir = work_dir / '20260101_000000'
    (run_dir / 'vis_data').mkdir(parents=True)
    config = f'import os\n{code}\nmodel = dict(type=eval({code!r}))\ntrain_cfg = dict(max_epochs=3)\n'
    (work_dir / 'atss_focal_tiny_3x.py').write_text(config)
    (run_dir / 'vis_data/config.py').write_text(config)
    tag = f'!!python/object/apply:builtins.eval ["{code}"]'
    for name in ('benchmark.json', f'20260101_000000/{run_dir.name}.json', '20260101_000000/vis_data/scalars.json'):
        (work_dir / name).write_text(tag)
    (run_dir / 'vis_data/scalars.pkl').write_bytes((work_dir / 'epoch_1.pth').read_bytes())

    ended, output = run(monkeypatch, capfd, 'benchmark.py', command, work_dir)
    assert ended == 0, output
    assert not marker.exists()
    exec(config)
    assert marker.exists()


@pytest.mark.slow
def test_mmengines_loader(armed):
    """In a process that imports only what configs name."""
    marker, work_dir = armed
    with pytest.raises(CheckpointError, match='nothing was run'):
        load_checkpoint(torch.nn.Linear(1, 1), str(work_dir / 'epoch_1.pth'))
    code = f"""
import torch, mmfocal.registration
from mmengine.runner import load_checkpoint
load_checkpoint(torch.nn.Linear(1, 1), {str(work_dir / 'epoch_1.pth')!r})
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=work_dir,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert 'CheckpointError' in done.stderr and 'nothing was run' in done.stderr and not marker.exists()
    set_off(work_dir / 'epoch_1.pth', 'zip')
    assert marker.exists()
