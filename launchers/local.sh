#!/usr/bin/env bash
# Starts a command on N ranks of this machine: launchers/local.sh N VERB RUN.yaml [OPTIONS...]
# Example: launchers/local.sh 2 unlearn run.yaml --objective.beta=0.05
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 RANKS VERB [ARGUMENTS...]" >&2
    exit 2
fi
ranks=$1
shift
python=${PYTHON:-$(dirname "$0")/../.venv/bin/python}
[ -x "$python" ] || python=python3
# On CPUs the ranks share the cores; more threads than cores make every one of them wait.
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / ranks > 0 ? cores / ranks : 1))}
exec "$python" -m torch.distributed.run --standalone --nproc-per-node="$ranks" -m altpo_ds "$@"
