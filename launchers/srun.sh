#!/usr/bin/env bash
# Starts a command on all nodes of a Slurm allocation, a rank each task; inside sbatch or salloc.
# usage: launchers/srun.sh VERB [ARGUMENTS...]
# Nodes are the allocation's. Ranks of a node: RANKS_PER_NODE, else the tasks that were asked for (--ntasks-per-node), else
# its GPUs, else one. slurm/env.sh is read when there.
# RANK_LOGS=PATH writes what rank N prints to PATH-rankN.log.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=slurm/settings.sh
source "$launchers/../slurm/settings.sh"
[ $# -ge 1 ] || usage
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "no Slurm allocation here: call it inside sbatch or salloc, or use launchers/local.sh" >&2
    exit 2
fi

# Node names need not resolve everywhere: the controller knows the address.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
export MASTER_ADDR=${address:-$first}
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # below the ports that systems give away themselves
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun asks for it anew
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE

options=(--export=ALL --kill-on-bad-exit=1)
[[ $(scontrol show config) == *task/none* ]] || options+=(--cpu-bind=cores)
if [ -n "${RANKS_PER_NODE:-}" ] || [ -z "${SLURM_NTASKS:-}" ]; then
    ranks=${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
    options+=(--ntasks=$((SLURM_NNODES * ranks)) --ntasks-per-node="$ranks")
fi
[ -z "${RANK_LOGS:-}" ] || options+=(--output="${RANK_LOGS//%/%%}-rank%t.log" --open-mode=append)
command=(srun "${options[@]}" "${SRUN_OPTIONS[@]}" "${CONTAINER[@]}" bash "$launchers/rank.sh" "$@")
[ -n "${TRIAL_FILE:-}" ] || exec "${command[@]}"

# The trial of a sweep's agent: kept until it has ended, for the job to go on with it after a preemption.
{
    for name in WANDB_RUN_ID WANDB_SWEEP_ID WANDB_SWEEP_PARAM_PATH; do
        [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf '%q ' exec bash "$launchers/srun.sh" "$@"
} >"$TRIAL_FILE"
status=0
"${command[@]}" || status=$?
[[ $status =~ ^($PREEMPTED)$ ]] || rm "$TRIAL_FILE"
exit "$status"
