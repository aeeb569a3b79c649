#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: dist_run.sh SCRIPT PROCESSES [ARGUMENTS OF THE SCRIPT].
set -euo pipefail
script="$(dirname "$0")/$1"
processes=$2
nodes=${NNODES:-1}
if [ "$nodes" = 1 ] && [ -z "${PORT:-}" ]; then
    where=(--rdzv-backend=c10d --rdzv-endpoint=localhost:0)  # a free port
else
    where=(--master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
if [ -z "${OMP_NUM_THREADS:-}" ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    OMP_NUM_THREADS=$(( $(nproc) / processes ))
    export OMP_NUM_THREADS=$(( OMP_NUM_THREADS > 0 ? OMP_NUM_THREADS : 1 ))
fi
exec python "$(dirname "$0")/dist_launch.py" --nnodes="$nodes" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    "${where[@]}" "$script" "${@:3}" --launcher pytorch
