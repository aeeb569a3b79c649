"""SIGTERM, by which a cluster preempts a job: training saves and exits, and its workers live until then."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import all_reduce, get_world_size

EXIT_CODE = 128 + signal.SIGTERM


class Preemption:
    """Records that SIGTERM has arrived, so that training can finish its iteration, save and exit with code 143."""

    def __init__(self) -> None:
        self.requested = False
        self._exits_at_once = False

    @contextmanager
    def handle(self) -> Iterator[None]:
        """Handles SIGTERM within the block; outside the main thread, where Python allows no handlers, does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._record)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def exit_at_once(self) -> Iterator[None]:
        """Exits as soon as SIGTERM arrives within the block, or before it, since nothing has to be saved."""
        self._exits_at_once = True
        if self.requested:
            raise SystemExit(EXIT_CODE)
        yield
        self._exits_at_once = False

    def requested_anywhere(self) -> bool:
        """Returns whether any process has received SIGTERM; all processes have to call this together."""
        if get_world_size() == 1:
            return self.requested
        requested = torch.tensor(int(self.requested))
        all_reduce(requested, 'max')  # all processes leave after the same iteration
        return bool(requested)

    def _record(self, *_: object) -> None:
        self.requested = True
        if self._exits_at_once:
            raise SystemExit(EXIT_CODE)


def outlive_preemption() -> None:
    """Lets a data loader's worker survive a SIGTERM that a cluster sends to all processes of a job.

    Training still needs batches to finish its iteration, and ends its workers itself: their parent's SIGTERM counts.
    Where the system does not tell who sent a signal (macOS, Windows), nothing is changed.
    """
    if not (hasattr(signal, 'pthread_sigmask') and hasattr(signal, 'sigwaitinfo')):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_parents_signal, daemon=True).start()


def _exit_with_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)
