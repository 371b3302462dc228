#!/usr/bin/env bash
# One rank, in the place that torchrun, DeepSpeed or srun gave it: what every launcher starts.
# usage: launchers/rank.sh VERB [ARGUMENTS...]
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
if [ "${1:-}" = --packed ]; then # arguments that came through a shell that would have taken them apart
    mapfile -d '' -t arguments < <(base64 -d <<<"$2")
    set -- "${arguments[@]}"
fi
[ $# -ge 1 ] || usage

if [ -z "${RANK:-}" ] && [ -n "${SLURM_STEP_ID:-}" ]; then
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
fi
node_ranks=${LOCAL_WORLD_SIZE:-${LOCAL_SIZE:-1}} # under Slurm unset, and not needed
share_threads "$node_ranks"

# Gives this rank cores of its own, where the launcher is not Slurm, which does so itself.
bind_cores() {
    local part cores=() share
    for part in $(taskset -cp $$ | sed 's/.*: //; s/,/ /g'); do
        mapfile -t -O ${#cores[@]} cores < <(seq "${part%-*}" "${part#*-}")
    done
    share=$((${#cores[@]} / node_ranks))
    [ "$share" -gt 0 ] || return 0
    cores=("${cores[@]:LOCAL_RANK*share:share}")
    taskset -cp "$(IFS=,; echo "${cores[*]}")" $$ >/dev/null
}

# Keeps freed memory for the next tensor, as we have glibc do where it is not installed, and wastes less of it.
preload_tcmalloc() {
    local library
    library=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p | awk '/libtcmalloc_minimal\.so/ { print $NF; exit }') || return 0
    [ -n "$library" ] || return 0
    export LD_PRELOAD=$library
    [ "${RANK:-0}" != 0 ] || echo "tcmalloc is preloaded ($library)" >&2
}

if on_cpu; then
    [ "$node_ranks" -eq 1 ] || ! command -v taskset >/dev/null || bind_cores
    [ -n "${LD_PRELOAD:-}" ] || ! command -v awk >/dev/null || preload_tcmalloc
fi
exec "$PYTHON" -m altpo_ds "$@"
