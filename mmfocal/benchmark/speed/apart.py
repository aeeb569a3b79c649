"""A contender in a process of its own, on the CPU, as its users run it; as a program, that process.

In one process contenders share the C library's allocator: what one of them frees decides how fast another gets memory.
"""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import asdict

import torch

from mmfocal.benchmark.speed.contenders import Case, contenders, first_line, make_step


class Apart:
    """Runs a contender once each time it is called; its process waits in between.

    Args:
        name (str): Contender.
        case (Case): What to run.
        threads (int): Of torch.

    Raises:
        RuntimeError: If the contender fails there; with what it said.
    """

    def __init__(self, name: str, case: Case, threads: int):
        task = json.dumps(dict(name=name, case=asdict(case), threads=threads))
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'mmfocal.benchmark.speed.apart', task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._wait()

    def __call__(self) -> None:
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        self._wait()

    def _wait(self):
        said = self.process.stdout.readline().strip()
        if said != 'done':
            raise RuntimeError(said or f'its process ended with {self.process.wait()}')

    def close(self) -> None:
        """Ends the process, whatever has become of it."""
        self.process.kill()
        self.process.wait()


def _serve(name, case, threads):
    torch.set_num_threads(threads)
    answers = sys.stdout
    try:
        with redirect_stdout(sys.stderr):  # libraries may print
            step = make_step(contenders(case.what)[name], case)
        print('done', file=answers, flush=True)
        for _ in sys.stdin:
            with redirect_stdout(sys.stderr):
                step()
            print('done', file=answers, flush=True)
    except Exception as error:  # whatever a rival library raises
        print(first_line(error), file=answers, flush=True)


if __name__ == '__main__':
    task = json.loads(sys.argv[1])
    _serve(task['name'], Case(**task['case']), task['threads'])
