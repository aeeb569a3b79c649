"""What a machine lacks for the set-up, or why one of its steps failed, in a sentence."""

import os
import re
import shutil
import tempfile
from pathlib import Path

# Bytes of the environment and of temporary files, with a tenth to spare: measured for torch's CPU build
# (1.55e9), reckoned from the wheels (2.8e9, unpacked 5.9e9) where CUDA's libraries come with it.
NEEDED = {'cpu': (1_800_000_000, 500_000_000), 'cuda': (6_500_000_000, 3_000_000_000)}


class SetupError(Exception):
    """One sentence: what is missing, where, and what to do."""


def check_disk(venv, kind):
    """Raises SetupError if the environment or the temporary files find no room.

    Args:
        venv: Path of the environment, which need not exist yet.
        kind: 'cpu' or 'cuda', the torch that is coming.
    """
    home = next(folder for folder in (venv, *venv.parents) if folder.exists())
    needs = {}
    for folder, size in zip((home, Path(tempfile.gettempdir())), NEEDED[kind]):
        place, others = needs.get(folder.stat().st_dev, (folder, 0))
        needs[folder.stat().st_dev] = place, others + size
    for place, size in needs.values():
        free = shutil.disk_usage(place).free
        if free < size:
            raise SetupError(
                f'too little disk space: {size:,} bytes are needed in {place} and {free:,} are free; make '
                'room, or choose other places with VENV=PATH and the environment variable TMPDIR'
            )


def reason(output):
    """Returns why pip or a compiler failed, as far as its output tells."""
    if 'No space left on device' in output:
        free = [
            f'{shutil.disk_usage(place).free:,} bytes are free in {place}'
            for place in (os.getcwd(), tempfile.gettempdir())
        ]
        return 'the disk is full: ' + ', '.join(free)
    if re.search('(?i)connection broken by|connection to .* timed out|failed to establish a new', output):
        return 'no package index answers; check the network, and the index and proxy that `pip config list` shows'
    if re.search(r'Killed signal|signal 9|\bKilled\b', output):
        return 'the compiler was killed, most likely for want of memory; try with MAX_JOBS=1 in the environment'
    errors = re.findall(r'(?mi)^.*\berror: (.+)', output) or output.splitlines()[-1:] or ['it said nothing']
    error = next((error for error in errors if 'No matching distribution' in error), errors[0])
    if '(from versions: none)' in output:
        error += ': no package index has it, or none answers; check what `pip config list` shows'
    return error
