"""What a training saves and what it resumes from."""

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_world_size
from mmengine.fileio import LocalBackend, join_path, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.distributed.fsdp import FSDPModule

from mmfocal.errors import CheckpointError, ConfigError, SavingError
from mmfocal.files import remove_partial_files, write_atomically

RESUME_FILE = 'resume.pth'  # the one checkpoint between those that a hook numbers
LATEST = 'last_checkpoint'  # note: the path of the latest checkpoint
VALIDATED = 'last_validation'  # note: the iteration of the last validation that finished
OWN_NAMES = re.compile(rf'(?:epoch|iter)_\d+\.pth|{re.escape(RESUME_FILE)}')


class Checkpointer:
    """Owner of a training's checkpoints: what is saved and where, and which one a resumed training starts from.

    A checkpoint is complete or absent. One that cannot be written is logged, and training continues; what a new one
    replaces is removed after it is on the disk. Position in the data is saved as numbers, since random numbers
    depend on them alone (`mmfocal.engine.seeding`). The work directory has two notes: the path of the latest
    checkpoint in `last_checkpoint` and the iteration of the last finished validation in `last_validation`.

    Args:
        runner: The runner that trains. Its `CheckpointHook`, if any, says where checkpoints go and how many stay.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.saved_iter: int | None = None  # iterations in the last checkpoint to resume from
        self.failure: str | None = None  # why the latest attempt failed
        self._gradients: dict | None = None
        self._latest: list[str | None] | None = None

    # What is saved

    def progress(self, epoch: int, iteration: int) -> dict[str, int]:
        """Returns the position in the data after so many finished epochs and iterations.

        Returns:
            `batches_done` in the epoch, per process; `epoch_length`, batches per epoch; `batch_size`, of all processes
            together; `sampler_seed`.
        """
        loop = self.runner.train_loop
        batches = loop.dataloader.batch_sampler
        in_epoch = loop.endless or epoch == loop.epoch
        return dict(
            batches_done=iteration - loop.epoch_start if in_epoch else 0,
            epoch_length=len(batches),
            batch_size=batches.batch_size * get_world_size(),
            sampler_seed=batches.seed,
        )

    def restore_progress(self, meta: dict) -> None:
        """Moves the loop to the position that `progress` saved, or that a checkpoint of MMEngine's loops implies.

        If an epoch has another number of batches now, iterations are counted as if it had had it from the start.
        """
        loop = self.runner.train_loop
        batches = loop.dataloader.batch_sampler
        size, length = batches.batch_size * get_world_size(), len(batches)
        if 'batches_done' in meta:  # of batches that may have had another size
            first = meta['batches_done'] * meta['batch_size'] // size
        else:
            first = loop.iter if loop.endless else 0
        same = meta['epoch_length'] == length if 'epoch_length' in meta else meta.get('batch_size', size) == size
        if not same and not loop.endless:
            is_validated = self.has_validated(loop.iter)
            loop._iter = loop.epoch * length + first
            if is_validated:
                self._note(VALIDATED, str(loop.iter))
        loop.start_at(first)
        batches.default_seed = self.runner.seed
        batches.seed = meta.get('sampler_seed', batches.seed)

    def can_save(self) -> bool:
        """Returns whether a checkpoint holds everything now: several processes do not save accumulated gradients."""
        return not self.runner.distributed or self.runner.optim_wrapper.should_update()

    def add_gradients(self, checkpoint: dict) -> None:
        """Adds gradients that are accumulated and not applied yet to a checkpoint of one process."""
        runner = self.runner
        if 'optimizer' not in checkpoint or runner.distributed or runner.optim_wrapper.should_update():
            return
        gradients = {
            name: parameter.grad.cpu()
            for name, parameter in runner.model.named_parameters()
            if parameter.grad is not None
        }
        if all(gradient.isfinite().all() for gradient in gradients.values()):  # or no step could follow
            checkpoint['gradients'] = gradients

    def keep_gradients(self, checkpoint: dict) -> None:
        """Keeps a loaded checkpoint's accumulated gradients for `restore_gradients`."""
        self._gradients = checkpoint.get('gradients')

    def restore_gradients(self) -> None:
        for name, parameter in self.runner.model.named_parameters():
            if name in (self._gradients or {}):
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = None

    # How it is saved

    def write(self, save: Callable[..., None], out_dir: str, filename: str, meta: dict, **options: Any) -> None:
        """Writes a checkpoint by a runner's method, atomically on a local disk.

        Args:
            save: MMEngine's `Runner.save_checkpoint`, which only the first process runs.
            out_dir: The folder, or a URL.
            filename: The name in it.
            meta: With `epoch` and `iter`, those finished.
            **options: Other arguments of `save`.

        Raises:
            SavingError: In all processes, if the first cannot write it.
        """
        if hasattr(self.runner.train_loop, 'start_at'):  # one of ours
            meta = {**meta, **self.progress(meta['epoch'], meta['iter'])}
        is_local = options.get('file_client_args') is None and options.get('backend_args') is None
        if is_local and '://' not in str(out_dir):
            options['backend_args'] = dict(backend='whole_files')
        failure = [None]
        try:
            save(out_dir, filename, meta=meta, **options)
        except SavingError as error:
            failure = [str(error)]
        if isinstance(self.runner.model, FSDPModule) and self.runner.rank != 0:
            self.runner.model.state_dict()  # the first process gathers the others' shards
            if options['save_optimizer']:
                self.runner.optim_wrapper.state_dict()
        broadcast_object_list(failure)
        if failure[0]:
            raise SavingError(failure[0])
        if options['save_optimizer']:
            self.saved_iter = meta['iter']

    def save(self, filename: str, **options: Any) -> bool:
        """Saves a checkpoint to resume from and notes it as the latest, or logs why it cannot be saved.

        Args:
            filename: Its name.
            **options: Other arguments of `Runner.save_checkpoint`.

        Returns:
            Whether it is saved.
        """
        hook = self._hook
        out_dir = hook.out_dir if hook else self.runner.work_dir
        if hook:
            options.update(file_client_args=hook.file_client_args, backend_args=hook.backend_args)
        try:
            self.runner.save_checkpoint(out_dir, filename, **options)
        except SavingError as error:
            self.failure = str(error)
            self.runner.logger.error(f'{error}; training continues and saves again at the next interval')
            return False
        self.failure = None
        self._note(LATEST, join_path(out_dir, filename))
        return True

    def save_resume_file(self, iteration: int) -> None:
        """Saves `resume.pth` after so many finished iterations, if they are not saved yet."""
        if self.saved_iter != iteration:
            self.save(RESUME_FILE, meta=dict(epoch=self.runner.epoch, iter=iteration))

    def save_numbered(self, step: int, kept: list[int], most: int, **options: Any) -> list[int]:
        """Saves a checkpoint named by its number, then removes `resume.pth` and the oldest above the limit.

        Args:
            step: Its epoch or iteration.
            kept: The numbers of those before it.
            most: How many stay; all if it is not positive.
            **options: As for `save`.

        Returns:
            The numbers of the checkpoints that stay.
        """
        hook, hub = self._hook, self.runner.message_hub
        numbers = [number for number in kept if number != step] + [step]
        removed, stay = (numbers[:-most], numbers[-most:]) if most > 0 else ([], numbers)
        last = hub.runtime_info.get('last_ckpt')
        self._record(most, stay, hook.file_backend.join_path(hook.out_dir, hook.filename_tmpl.format(step)))
        if not self.save(hook.filename_tmpl.format(step), **options):
            self._record(most, kept, last)
            return kept
        if self.runner.rank == 0:
            for name in (*map(hook.filename_tmpl.format, removed), RESUME_FILE):
                path = hook.file_backend.join_path(hook.out_dir, name)
                if hook.file_backend.isfile(path):
                    hook.file_backend.remove(path)
        return stay

    def _record(self, most: int, numbers: list[int], last: str | None) -> None:
        """Tells the message hub, which is part of a checkpoint, of the latest one and of those that stay."""
        self.runner.message_hub.update_info('last_ckpt', last)
        if most > 0:
            self.runner.message_hub.update_info('keep_ckpt_ids', numbers)

    @contextmanager
    def replace_best(self, hook: CheckpointHook) -> Iterator[None]:
        """Removes files that the block replaces after it has saved; if it cannot save, undoes its records and logs why.

        Args:
            hook: Whose attributes `file_backend` and `best_ckpt_path` the block uses.
        """
        hub, backend = self.runner.message_hub, hook.file_backend
        records = dict(hub.runtime_info)
        paths = getattr(hook, 'best_ckpt_path', None), dict(getattr(hook, 'best_ckpt_path_dict', {}))
        hook.file_backend = _RemovesLater(backend)
        try:
            yield
        except SavingError as error:
            hub.runtime_info.clear()
            hub.runtime_info.update(records)
            hook.best_ckpt_path, hook.best_ckpt_path_dict = paths
            self.runner.logger.error(f'{error}; this best checkpoint is skipped, and training continues')
        else:
            if not self.failure:  # or the latest checkpoint still names the file before
                hook.file_backend.remove_now()
        finally:
            hook.file_backend = backend

    def clean_up(self) -> None:
        """Removes files that a killed process has left half written."""
        folder = self._hook.out_dir if self._hook else self.runner.work_dir
        if self.runner.rank == 0 and '://' not in folder:
            remove_partial_files(folder)

    def check_last_is_saved(self) -> None:
        """Raises an error if the latest attempt to save has failed.

        Raises:
            SavingError: With the reason.
        """
        if self.failure:
            raise SavingError(
                f'training has finished, but its last checkpoint is missing: {self.failure}; --resume starts from the '
                'one before'
            )

    # Validations

    def before_validation(self, iteration: int) -> None:
        """Saves the state, unless it is saved, since a validation may not finish."""
        if self._hook and not self.failure:
            self.save_resume_file(iteration)

    def after_validation(self, iteration: int) -> None:
        """Saves the state again if a schedule or hook follows the metrics, and notes that the validation has ended."""
        schedulers = self.runner.param_schedulers or ()
        follows = any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers)
        follows |= any(getattr(hook, 'follows_metrics', False) for hook in self.runner.hooks)
        if self._hook and follows:
            self.save(RESUME_FILE, meta=dict(epoch=self.runner.epoch, iter=iteration))
        self._note(VALIDATED, str(iteration))

    def has_validated(self, iteration: int) -> bool:
        """Returns whether the validation after so many iterations has finished."""
        path = Path(self.runner.work_dir, VALIDATED)
        return path.is_file() and path.read_text(encoding='utf-8', errors='replace') == str(iteration)

    def forget_validation(self) -> None:
        """Clears the note of an earlier training in the same folder."""
        self._note(VALIDATED, '')

    # Resuming

    def latest(self) -> str | None:
        """Returns the checkpoint to resume from in the work directory, found once, the same in all processes."""
        if self._latest is None:
            self._latest = [find_latest_valid_checkpoint(self.runner.work_dir) if self.runner.rank == 0 else None]
            broadcast_object_list(self._latest)
        return self._latest[0]

    @property
    def _hook(self) -> CheckpointHook | None:
        return next((hook for hook in self.runner.hooks if isinstance(hook, CheckpointHook)), None)

    def _note(self, name: str, text: str) -> None:
        """Writes a note in the first process, or logs why it cannot."""
        if self.runner.rank == 0:
            try:
                write_atomically(Path(self.runner.work_dir, name), text)
            except SavingError as error:
                self.runner.logger.error(str(error))


def checkpointer_of(runner: Runner, user: object) -> Checkpointer:
    """Returns a runner's checkpointer.

    Args:
        runner: The runner that trains.
        user: The loop or hook that needs it.

    Raises:
        ConfigError: If the runner has none, as MMEngine's own.
    """
    checkpointer = getattr(runner, 'checkpointer', None)
    if checkpointer is None:
        raise ConfigError(
            f"{type(user).__name__} needs mmfocal's runner, not {type(runner).__name__}: set runner_type='FocalRunner' "
            'and build it by RUNNERS.build(cfg) or FocalRunner.from_cfg(cfg)'
        )
    return checkpointer


@register_backend('whole_files')
class AtomicFilesBackend(LocalBackend):
    """MMEngine's local files, written so that nobody ever sees one half written."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes a file, or leaves the one that was there before.

        Raises:
            SavingError: If it cannot be written; for lack of space with the number of bytes needed and free.
        """
        try:
            write_atomically(filepath, obj)
        except SavingError as error:
            raise SavingError(f'{error}; earlier checkpoints are intact') from error

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """As `put`, for text."""
        self.put(obj.encode(encoding), filepath)


class _RemovesLater:
    """A file backend that keeps what it is told to remove until `remove_now`."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.removed = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def remove_now(self) -> None:
        for path in self.removed:
            self.backend.remove(path)


def find_latest_valid_checkpoint(work_dir: str) -> str | None:
    """Returns the checkpoint that `last_checkpoint` names or, if that is corrupt, the newest valid one.

    Args:
        work_dir: The work directory.

    Returns:
        Its path, or None if there is no checkpoint at all. Corrupt ones are logged.

    Raises:
        CheckpointError: If all checkpoints are corrupt.
    """
    corrupt = []
    for path in _own_checkpoints(work_dir):
        reason = None if '://' in path else corruption_reason(path)
        if reason is None:
            return path
        corrupt.append(path)
        MMLogger.get_current_instance().warning(f'{path} is corrupt ({reason}): trying the checkpoint before it')
    if corrupt:
        raise CheckpointError(
            f'{work_dir}: no valid checkpoint to resume from, {", ".join(map(os.path.basename, corrupt))} '
            f'{"is" if len(corrupt) == 1 else "are"} corrupt; leave out --resume to start from scratch'
        )
    return None


def _own_checkpoints(work_dir: str) -> list[str]:
    """Returns the checkpoints to resume from, the latest first; best and published ones hold only weights."""
    note = Path(work_dir, LATEST)
    named = note.read_text(encoding='utf-8', errors='replace').strip() if note.is_file() else ''
    if '://' in named:
        return [named]
    folders = {os.path.abspath(work_dir), os.path.abspath(os.path.dirname(named) or work_dir)}  # or the hook's out_dir
    paths = [
        os.path.join(folder, name)
        for folder in folders
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if OWN_NAMES.fullmatch(name)
    ]
    paths.sort(key=lambda path: (os.path.getmtime(path), path), reverse=True)
    if not os.path.isfile(named):
        named = os.path.join(work_dir, os.path.basename(named))  # the folder may have been moved
    if os.path.isfile(named):
        paths = [named] + [path for path in paths if path != os.path.abspath(named)]
    return paths


def corruption_reason(path: str | Path) -> str | None:
    """Returns why a file is not what `torch.save` has written, or None; `torch.load` compares no checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except Exception as error:  # corrupt bytes end in any kind of error
        return str(error)
    return f'checksum of {member}' if member else None
