#!/usr/bin/env bash
# Submits the whole way of a run, each job after the one before it has succeeded: alternates, unlearn, evaluate, report.
# usage: [SHARDS=N] slurm/pipeline.sh [SBATCH OPTIONS] RUN.yaml [OPTIONS...]
# data.alternates.path of the run is the file that alternates writes: alternates.out, or alternates.jsonl in run_dir.
# Example: SHARDS=8 slurm/pipeline.sh --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 run.yaml --objective.beta=0.05
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launchers/common.sh
source launchers/common.sh
# shellcheck source=slurm/settings.sh
source slurm/settings.sh
options=(--parsable --kill-on-invalid-dep=yes)
while [[ ${1:-} == -* ]]; do
    options+=("$1")
    shift
done
[ $# -gt 0 ] || usage
"$PYTHON" -m altpo_ds preflight alternates "$@" >/dev/null # a mistake is told now, and not when the first job starts

# submit NAME AFTER [SBATCH OPTIONS...] -- ARGUMENTS...: prints what it does, and leaves the number in `job`.
submit() {
    local name=$1 after=${2:+--dependency=afterok:$2} more=()
    shift 2
    while [ "$1" != -- ]; do more+=("$1"); shift; done
    shift
    job=$(sbatch "${options[@]}" ${after:+"$after"} "${more[@]}" "slurm/$name.sbatch" "$@")
    job=${job%%;*} # a cluster's name may follow
    echo "$name: job $job"
}

submit alternates '' --array="0-$((${SHARDS:-1} - 1))" -- "$@"
submit unlearn "$job" -- "$@"
submit evaluate "$job" -- "$@"
submit report "$job" --nodes=1 --ntasks=1 --ntasks-per-node=1 -- "$@"
