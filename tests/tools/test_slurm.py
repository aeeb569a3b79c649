"""tools/slurm_train.sh and slurm_test.sh with an srun that notes its arguments and starts the tasks here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmfocal.engine import FocalRunner
from mmfocal.errors import ConfigError
from mmfocal.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
NANO = 'configs/atss_focal_nano_shapes.py'
OPTIONS = [
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'train_dataloader.batch_size=2',
    'model.backbone.arch.depths=(1,1,1,1)',
    'train_cfg.max_epochs=1',
]
SRUN = r"""#!/bin/bash
printf '%s\n' "$@" > "$NOTES"
[ -n "${RUNS:-}" ] || exit 0
for arg; do case $arg in --ntasks=*) tasks=${arg#*=};; esac; done
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=$tasks SLURM_NODELIST='node[1-2]' SLURM_JOB_ID=$$
for (( rank = 1; rank < tasks; rank++ )); do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & done
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"
wait
"""
SCONTROL = """#!/bin/bash
[ "$*" = 'show hostnames node[1-2]' ] && printf 'localhost\nnode2\n'
"""


def run(tmp_path, script, *args, **environment):
    """Runs a script of tools/; returns what srun was told."""
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f'{tmp_path}:{Path(sys.executable).parent}:{os.environ["PATH"]}'
    notes = tmp_path / 'notes'
    environment = {**os.environ, 'PATH': path, 'NOTES': str(notes), 'OMP_NUM_THREADS': '1', **environment}
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        environment.pop(name, None)
    command = ['bash', f'tools/{script}', *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return notes.read_text().splitlines()


def test_what_srun_is_told(tmp_path):
    told = run(
        tmp_path,
        'slurm_train.sh',
        'gpus',
        'atss',
        NANO,
        'work dir',
        '--resume',
        '--cfg-options',
        'a=1',
        GPUS='32',
        CPUS_PER_TASK='12',
        SRUN_ARGS='--account=vision --time=24:00:00',
    )
    assert told == [
        '--partition=gpus',
        '--job-name=atss',
        '--gres=gpu:8',
        '--ntasks=32',
        '--ntasks-per-node=8',
        '--cpus-per-task=12',
        '--kill-on-bad-exit=1',
        '--account=vision',
        '--time=24:00:00',
        'python',
        '-u',
        str(ROOT / 'tools/train.py'),
        NANO,
        '--work-dir',
        'work dir',
        '--resume',
        '--cfg-options',
        'a=1',
        '--launcher',
        'slurm',
    ]
    told = run(tmp_path, 'slurm_test.sh', 'gpus', 'atss', NANO, 'epoch_1.pth', '--out', 'out.pkl', GPUS='4')
    assert told == [
        '--partition=gpus',
        '--job-name=atss',
        '--gres=gpu:4',
        '--ntasks=4',
        '--ntasks-per-node=4',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        'python',
        '-u',
        str(ROOT / 'tools/test.py'),
        NANO,
        'epoch_1.pth',
        '--out',
        'out.pkl',
        '--launcher',
        'slurm',
    ]


@pytest.mark.slow
def test_two_tasks_without_a_gpu(shapes, tmp_path):
    run(
        tmp_path,
        'slurm_train.sh',
        'cpus',
        'atss',
        NANO,
        tmp_path / 'work',
        '--cfg-options',
        *OPTIONS,
        GPUS='2',
        RUNS='1',
        SHAPES_ROOT=str(shapes),
    )
    meta = load_checkpoint(tmp_path / 'work/epoch_1.pth')['meta']
    assert meta['iter'] == 2  # 8 images, 2 of each of 2 tasks


def test_slurm_without_srun(tmp_path, monkeypatch):
    for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match='--launcher slurm: SLURM_PROCID, which srun sets, is missing'):
        FocalRunner(model=None, work_dir=tmp_path, launcher='slurm')
