#!/usr/bin/env bash
# tools/dist_train.sh CONFIG PROCESSES [ARGUMENTS OF train.py]: one process a GPU; without GPUs, on the CPU through gloo.
# On several machines: NNODES, NODE_RANK and MASTER_ADDR in the environment, and a PORT that is free on the first.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG PROCESSES [ARGUMENTS OF train.py]" >&2; exit 2; }
exec "$(dirname "$0")/dist_run.sh" train.py "$2" "$1" "${@:3}"
