#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]: one process a GPU.
# In the environment: GPUS in all (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), and SRUN_ARGS, more options of srun,
# which win over these where they differ.
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]" >&2; exit 2; }
exec "$(dirname "$0")/slurm_run.sh" train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
