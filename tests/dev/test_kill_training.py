import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'dev/kill_training.py'


@pytest.mark.slow
def test_three_kills(tmp_path):
    command = [sys.executable, SCRIPT, '--kills', '3', '--epochs', '4', '--work-dir', tmp_path / 'kills']
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert (
        '3 kills survived (1 in training, 1 while saving, 1 in evaluation); weights and optimizer equal'
        in process.stdout
    )


def test_another_folder_is_not_overwritten(tmp_path):
    process = subprocess.run(
        [sys.executable, SCRIPT, '--work-dir', tmp_path], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 1
    assert process.stderr == f'error: {tmp_path} exists already; remove it or choose another --work-dir\n'
