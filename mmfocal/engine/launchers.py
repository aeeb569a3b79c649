"""Process groups of distributed jobs, also without a GPU."""

import atexit
import gc
import os
import subprocess

import torch
from torch import distributed

from mmfocal.errors import ConfigError


def set_up_process_group(launcher: str) -> None:
    """Prepares what MMEngine's own set-up, which follows, does not know: jobs without a GPU, several on one node.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        ConfigError: If it is 'slurm' and srun has not started the process.
    """
    if launcher == 'slurm':
        _check_slurm()
        # MMEngine's own port is the same for all jobs of a node; those in one allocation are steps of one job.
        job, step = (int(os.environ.get(f'SLURM_{name}_ID', 0)) for name in ('JOB', 'STEP'))
        os.environ.setdefault('MASTER_PORT', str(20000 + (job + 101 * step) % 10000))
    if torch.cuda.is_available() or distributed.is_initialized():  # MMEngine's own way first selects a GPU
        return
    if launcher == 'slurm':
        _set_slurm_environment()
    if launcher in ('pytorch', 'slurm'):
        distributed.init_process_group('gloo')
        atexit.register(_close_process_group)


def _close_process_group() -> None:
    """Ends gloo's threads: one that frees a tensor after the interpreter has ended aborts the process."""
    if distributed.is_initialized():
        gc.collect()  # the threads end with the last model that uses the group
        distributed.destroy_process_group()


def _check_slurm() -> None:
    missing = [name for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST') if name not in os.environ]
    if missing:
        raise ConfigError(
            f'--launcher slurm: {missing[0]}, which srun sets, is missing; start the job with tools/slurm_train.sh or '
            'tools/slurm_test.sh'
        )


def _set_slurm_environment() -> None:
    """Sets the variables that PyTorch reads from those that srun sets."""
    variables = os.environ
    variables['RANK'] = variables['SLURM_PROCID']
    variables['WORLD_SIZE'] = variables['SLURM_NTASKS']
    variables['LOCAL_RANK'] = variables.get('SLURM_LOCALID', '0')
    if 'MASTER_ADDR' not in variables:
        command = ['scontrol', 'show', 'hostnames', variables['SLURM_NODELIST']]
        nodes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        variables['MASTER_ADDR'] = nodes[0]
