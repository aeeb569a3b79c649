"""dev/memory_growth.py: the figures are of a training that has run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_figures(shapes):
    done = subprocess.run(
        [
            sys.executable,
            'dev/memory_growth.py',
            'configs/atss_focal_nano_shapes.py',
            '--iters',
            '30',
            '--warm-up',
            '10',
            '--cfg-options',
            'model.backbone.arch.depths=(1,1,1,1)',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'SHAPES_ROOT': str(shapes)},
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(
        r'^(.+): ([\d.]+) MiB at iteration 10, ([\d.]+) MiB at iteration 40, at most .* MiB in 100 iterations$',
        done.stdout,
        re.MULTILINE,
    )
    assert [line[0] for line in lines] == ['training process', 'workers']
    assert all(50 < float(figure) < 50_000 for line in lines for figure in line[1:])
