#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share: slurm_run.sh SCRIPT PARTITION JOB_NAME [ARGUMENTS OF SCRIPT].
set -euo pipefail
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$(( gpus < 8 ? gpus : 8 ))}
read -ra srun_args <<< "${SRUN_ARGS:-}"
exec srun --partition="$2" --job-name="$3" --gres="gpu:$gpus_per_node" --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 "${srun_args[@]}" \
    python -u "$(dirname "$0")/$1" "${@:4}" --launcher slurm
