#!/usr/bin/env bash
# Starts a command on N ranks of this machine, by torchrun.
# usage: launchers/local.sh RANKS VERB [ARGUMENTS...]
# Example: launchers/local.sh 2 unlearn run.yaml --objective.beta=0.05
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[ $# -ge 2 ] || usage
ranks=$1
shift
share_threads "$ranks"
# seconds that ranks get to save when they are told to end
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
exec "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node="$ranks" --no-python "$launchers/rank.sh" "$@"
