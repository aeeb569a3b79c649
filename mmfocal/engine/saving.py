"""Checkpoints that are whole or not there: written beside, put on the disk, renamed."""

import errno
import os
import os.path as osp
import re
import shutil
import zipfile
from contextlib import suppress

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS

from mmfocal.errors import CheckpointError, SavingError

RESUME_FILE = 'resume.pth'  # the checkpoint within an epoch, of which there is one
OWN_NAMES = re.compile(rf'(?:epoch|iter)_\d+\.pth|{re.escape(RESUME_FILE)}')
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@register_backend('whole_files')
class WholeFilesBackend(LocalBackend):
    """MMEngine's local files, of which none is ever seen half written, whenever the process or the machine stops."""

    def put(self, obj: bytes, filepath: str) -> None:
        """Writes a file, or leaves the one that there was.

        Args:
            obj (bytes): What it will hold.
            filepath (str): Its path. Folders are made.

        Raises:
            SavingError: If it cannot be written; the sentence names needed and free bytes where space is the reason.
        """
        folder, name = osp.split(osp.abspath(filepath))
        part = osp.join(folder, f'.{name}.part')
        try:
            os.makedirs(folder, exist_ok=True)
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, filepath)
            with suppress(OSError):  # some network file systems cannot do it
                directory = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(directory)  # the new name, too, has to be on the disk
                finally:
                    os.close(directory)
        except OSError as error:
            with suppress(OSError):  # there may be none, or it stays until it is overwritten
                os.remove(part)
            reason = f'{filepath} cannot be saved: {error.strerror or error}'
            if error.errno in NO_SPACE:
                free = shutil.disk_usage(folder).free
                reason += (
                    f'; it needs {len(obj)} bytes ({len(obj) / 2**20:.1f} MiB), and {free} ({free / 2**20:.1f} MiB) are '
                    'free on its disk; make room (or raise the quota)'
                )
            raise SavingError(f'{reason}; earlier checkpoints are intact') from error

    def put_text(self, obj: str, filepath: str, encoding: str = 'utf-8') -> None:
        """As `put`, of a text."""
        self.put(obj.encode(encoding), filepath)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's `CheckpointHook`, which loses nothing when a checkpoint cannot be saved or the process dies meanwhile.

    What a new checkpoint replaces is removed after it is on the disk. One that cannot be saved is reported, and
    training goes on until the next; only the last one's failure ends in an error.

    Args:
        *args, **kwargs: As of `CheckpointHook`.
        resume_interval (int): Iterations between checkpoints in `resume.pth`, which is there to go on within an epoch or between
            two of `interval`, and is removed with the next of those. Default: 0, only when the process is told to end (SIGTERM).

    Raises:
        SavingError: After training, if the last checkpoint could not be saved.
    """

    def __init__(self, *args, resume_interval: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.resume_interval = resume_interval
        self.is_due = False
        self.gradients = None

    def before_train(self, runner):
        """Also removes what a killed process has left, and puts back gradients that it had accumulated."""
        super().before_train(runner)
        if runner.rank == 0 and osp.isdir(self.out_dir):
            for name in os.listdir(self.out_dir):
                if re.fullmatch(r'\..+\.part', name):
                    os.remove(osp.join(self.out_dir, name))
        if self.gradients is not None:
            for name, parameter in runner.model.named_parameters():
                if name in self.gradients:
                    parameter.grad = self.gradients[name].to(parameter.device)
            self.gradients = None

    def before_save_checkpoint(self, runner, checkpoint):
        """Adds the gradients that are accumulated and not yet applied, which several processes do not have in common."""
        if 'optimizer' in checkpoint and not runner.distributed and not runner.optim_wrapper.should_update():
            gradients = {
                name: parameter.grad.cpu()
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }
            if all(
                gradient.isfinite().all() for gradient in gradients.values()
            ):  # else no step could be taken after resuming
                checkpoint['gradients'] = gradients

    def after_load_checkpoint(self, runner, checkpoint):
        if runner._resume:
            self.gradients = checkpoint.get('gradients')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Saves where `interval` or `resume_interval` say so."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self.is_due |= self.every_n_train_iters(runner, self.resume_interval)
        if self.is_due and runner.can_be_resumed_here():
            self.is_due = False
            if runner.saved_iter != runner.iter + 1:
                runner.save_to_resume(runner.iter + 1)

    def after_train(self, runner):
        """Does not pass over in silence that the last checkpoint is missing."""
        if runner.unsaved:
            raise SavingError(
                f'training has ended without its last checkpoint: {runner.unsaved}; then --resume goes on from the one '
                'before'
            )
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner, step, meta):
        before = list(getattr(self, 'keep_ckpt_ids', ())), self.last_ckpt
        keep = [kept for kept in before[0] if kept != step] + [step]
        removed, keep = keep[: -self.max_keep_ckpts], keep[-self.max_keep_ckpts :]
        self._set_kept(runner, keep)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        saved = runner.try_to_save(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not saved:
            self._set_kept(runner, before[0])
            self.last_ckpt = before[1]
        elif runner.rank == 0:
            old = [self.filename_tmpl.format(one) for one in removed] if self.max_keep_ckpts > 0 else []
            for path in (self.file_backend.join_path(self.out_dir, one) for one in (*old, RESUME_FILE)):
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def _set_kept(self, runner, steps):
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = steps
            runner.message_hub.update_info('keep_ckpt_ids', steps)

    def _save_best_checkpoint(self, runner, metrics):
        hub, backend = runner.message_hub, self.file_backend
        self.file_backend = _RemovesLater(backend)
        before = (
            dict(hub.runtime_info),
            getattr(self, 'best_ckpt_path', None),
            dict(getattr(self, 'best_ckpt_path_dict', {})),
        )
        try:
            super()._save_best_checkpoint(runner, metrics)
        except SavingError as error:
            hub.runtime_info.clear()
            hub.runtime_info.update(before[0])
            self.best_ckpt_path, self.best_ckpt_path_dict = before[1:]
            runner.logger.error(f'{error}; this best checkpoint is left out, and training goes on')
        else:
            if not runner.unsaved:  # else the checkpoint still names the one before
                self.file_backend.remove_now()
        finally:
            self.file_backend = backend


class _RemovesLater:
    """A file backend that keeps what it is told to remove until `remove_now`."""

    def __init__(self, backend):
        self.backend, self.removed = backend, []

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def remove_now(self) -> None:
        for path in self.removed:
            self.backend.remove(path)


def newest_whole_checkpoint(work_dir: str) -> str | None:
    """Finds the checkpoint to go on from: what `last_checkpoint` names, or where that is damaged the newest one that is not.

    Args:
        work_dir (str): The work directory.

    Returns:
        str: Its path, or None if there is no checkpoint at all. Damaged ones are reported.

    Raises:
        CheckpointError: If all checkpoints are damaged.
    """
    damaged = []
    for path in _checkpoints(work_dir):
        reason = None if '://' in path else damage(path)
        if reason is None:
            return path
        damaged.append(path)
        MMLogger.get_current_instance().warning(f'{path} is damaged ({reason}): the checkpoint before it is taken')
    if damaged:
        raise CheckpointError(
            f'{work_dir}: no checkpoint to resume from, since {", ".join(map(osp.basename, damaged))} '
            f'{"is" if len(damaged) == 1 else "are all"} damaged; leave out --resume to start anew'
        )
    return None


def _checkpoints(work_dir: str) -> list[str]:
    """The work directory's own checkpoints, the newest first; not the best and the published ones, which hold weights alone."""
    named, pointer = '', osp.join(work_dir, 'last_checkpoint')
    if osp.isfile(pointer):
        with open(pointer, encoding='utf-8', errors='replace') as file:
            named = file.read().strip()
    if '://' in named:
        return [named]
    folders = dict.fromkeys(
        map(osp.abspath, (work_dir, osp.dirname(named) or work_dir))
    )  # the hook's out_dir may be another
    paths = [
        osp.join(folder, name)
        for folder in folders
        if osp.isdir(folder)
        for name in os.listdir(folder)
        if OWN_NAMES.fullmatch(name)
    ]
    paths.sort(key=lambda path: (osp.getmtime(path), path), reverse=True)
    if not osp.isfile(named):
        named = osp.join(work_dir, osp.basename(named))  # the folder may have been moved
    if osp.isfile(named):
        paths = [named] + [path for path in paths if path != osp.abspath(named)]
    return paths


def damage(path: str) -> str | None:
    """Looks whether a file is what torch.save has written, byte for byte; torch itself compares no checksums.

    Args:
        path (str): The file.

    Returns:
        str: What is wrong, or None.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except Exception as error:  # damaged bytes end in any kind of error
        return str(error)
    return f'checksum of {member}' if member else None
