"""The Python environment that is set up."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from checks import SetupError, reason

HEARTBEAT = 30  # seconds between two lines about a step that takes long


class Environment:
    """A virtual or conda environment, and what the set-up has noted about it.

    Args:
        folder: Its path; it need not exist yet.
        pythons: The lowest and the highest version of Python that it may have.

    Attributes:
        state: What the set-up keeps in the environment: `default` (it is our own, with the pinned torch),
            `torch` and `mmcv` (what was installed as such), `done` (fingerprint of a finished set-up).
        version: Python's, e.g. (3, 12).

    Raises:
        SetupError: If something else is there, or an environment that does not work.
    """

    def __init__(self, folder, pythons):
        self.folder, self.python = folder, folder / 'bin' / 'python'
        self.log, self.stamp = folder / 'mmfocal-install.log', folder / 'mmfocal-install.json'
        self.exists, self.version = os.path.lexists(self.python), sys.version_info[:2]
        if self.exists:
            code = 'import sys; print(*sys.version_info[:2], sep=".")'
            version = self.python.exists() and self.ask(code)[1]
            if not version:
                raise SetupError(f'{self.python} does not run any more; remove {folder} and try again')
            self.version = tuple(map(int, version.split('.')))
            if not pythons[0] <= self.version <= pythons[1]:
                raise SetupError(
                    f'{folder} holds Python {version}, but 3.{pythons[0][1]} to 3.{pythons[1][1]} is needed; choose '
                    'another place with VENV=PATH'
                )
        elif folder.exists() and not (folder / 'pyvenv.cfg').exists() and any(folder.iterdir()):
            raise SetupError(f'{folder} is neither empty nor a Python environment; choose another place with VENV=PATH')
        self.state = json.loads(self.stamp.read_text()) if self.stamp.exists() else {'default': False}

    def make(self):
        """Makes the environment, with the Python that runs this."""
        done = subprocess.run([sys.executable, '-m', 'venv', self.folder], capture_output=True, text=True)
        self.exists = True
        if done.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            fault = ' '.join((done.stdout + done.stderr).split())
            package = 'python{}.{}-venv'.format(*sys.version_info)
            raise SetupError(f'`{sys.executable} -m venv` failed; on Debian and Ubuntu it needs {package} ({fault})')

    def note(self, **changes):
        """Keeps changes of the state."""
        self.state.update(changes)
        self.stamp.write_text(json.dumps(self.state))

    def ask(self, code):
        """Runs code in the environment; returns (exit code, what it prints, its last complaint)."""
        done = subprocess.run(
            [self.python, '-W', 'ignore', '-c', code], cwd=tempfile.gettempdir(), capture_output=True, text=True
        )
        complaints = done.stderr.splitlines() or [f'exit code {done.returncode}']
        return done.returncode, done.stdout.strip(), complaints[-1]

    def packages(self):
        """Returns {package: version} of what is installed."""
        if not self.exists:
            return {}
        lines = self.ask(
            'from importlib.metadata import distributions\n'
            'for d in distributions(): print(d.metadata["Name"], d.version)'
        )[1].splitlines()
        # Of two with one name the first is imported.
        return {package(line): line.split()[1] for line in reversed(lines)}

    def pip(self, what, *args, env=None):
        """Runs pip, its output into the log, saying now and then how far it is.

        Args:
            what: Its task in a word or two.
            args: Its arguments.
            env: Its environment variables, instead of ours.

        Raises:
            SetupError: it failed.
        """
        lines, progress, start = [], '', time.monotonic()
        process = subprocess.Popen(
            [self.python, '-P', '-m', 'pip', *args],
            env=env,
            text=True,
            errors='replace',
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

        def read():
            nonlocal progress
            with open(self.log, 'a', buffering=1) as log:
                for line in process.stdout:
                    log.write(line)
                    lines.append(line)
                    if count := re.match(r'\s*\[(\d+)/(\d+)\] ', line):  # ninja's
                        progress = f'{count[1]} of {count[2]} files, '

        reader = threading.Thread(target=read)
        reader.start()
        while process.poll() is None:
            try:
                process.wait(HEARTBEAT)
            except subprocess.TimeoutExpired:
                minutes, seconds = divmod(round(time.monotonic() - start), 60)
                say(f'    {what}: {progress}{minutes} min {seconds:02} s')
        reader.join()
        if process.returncode:
            signal = -process.returncode
            why = f'ended by signal {signal}' if signal > 0 else reason(''.join(lines))
            raise SetupError(f'{what} failed: {why} (all output: {self.log})')


def package(requirement):
    """Returns the name that a requirement begins with, as pip compares it."""
    return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', requirement)[0]).lower()


def say(text):
    print(text, flush=True)
