# shellcheck shell=bash
# Sourced by the batch scripts: one way to start a command, and to decide what happens when it has ended.
slurm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$slurm/../launchers/common.sh"
# shellcheck source=slurm/settings.sh
source "$slurm/settings.sh"
MISTAKEN=2   # what a command leaves with that can never work as it stands

# Runs altpo-ds once, on this node, where the ranks would run.
altpo() {
    local step=()
    [ ${#SRUN_OPTIONS[@]} -eq 0 ] || step=(srun --nodes=1 --ntasks=1 --overlap "${SRUN_OPTIONS[@]}")
    "${step[@]}" "${CONTAINER[@]}" "$PYTHON" -m altpo_ds "$@"
}

# job VERB RUN.yaml [OPTIONS...]: runs a command on all nodes. A job whose run was preempted, or broke after it had
# saved something new, goes back into the queue and continues there, MAX_RESTARTS times at most.
job() {
    local verb=$1 id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
    local run_dir begun status=0
    trap : USR1 # for the ranks; scancel --full sends it here as well
    run_dir=$(altpo preflight "$@") || exit
    mkdir -p "$run_dir/slurm"
    echo "$id" >"$run_dir/slurm/$verb.job"
    export RANK_LOGS=$run_dir/slurm/$verb-$id
    begun=$(date +%s)
    say "$verb on $SLURM_JOB_NODELIST; what its ranks print: $RANK_LOGS-rank*.log"
    bash "$launchers/srun.sh" "$@" || status=$?
    if [ "$status" -ne 0 ] && altpo status "$run_dir" --json | grep -q '"finished": true'; then
        say "the ranks left with status $status, but the run is finished"
        status=0
    fi
    if [ "$status" -eq 0 ]; then
        say "finished"
    elif [[ $status =~ ^($PREEMPTED)$ ]] || { [ "$status" -ne "$MISTAKEN" ] && saved_since "$run_dir" "$begun"; }; then
        again "$status"
    else
        say "ended with status $status and nothing new saved; see $RANK_LOGS-rank*.log"
        exit "$status"
    fi
}

# sweep SWEEP.yaml|SWEEP_ID [OPTIONS...]: one trial, by Optuna from a file, or by an agent of W&B's sweep. The agent
# starts srun, so it runs on the node itself, outside of any container.
sweep() {
    local id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID} status=0
    local trial=$PWD/slurm-sweep-$id.trial
    trap : USR1
    say "a trial of $1 on $SLURM_JOB_NODELIST"
    if [ -f "$1" ]; then
        "$PYTHON" -m altpo_ds sweep "$1" --offline --count=1 "${@:2}" || status=$?
    elif [ -f "$trial" ]; then
        TRIAL_FILE=$trial bash "$trial" || status=$?
    else
        TRIAL_FILE=$trial "$PYTHON" -m wandb agent --count 1 "$@" || status=$?
        [ ! -f "$trial" ] || status=85 # an agent does not tell how its trial ended
    fi
    if [[ $status =~ ^($PREEMPTED)$ ]]; then
        again "$status"
    fi
    say "the trial ended with status $status"
    exit "$status"
}

# Whether the run in $1 has completed a checkpoint since the second $2.
saved_since() {
    [ -n "$(find "$1/checkpoints" -name manifest.json -newermt "@$2" 2>/dev/null)" ]
}

# Back into the queue, unless it was cancelled or has been there too often. The job keeps its number and its logs.
again() {
    local restarts=${SLURM_RESTART_COUNT:-0}
    if ! [[ $(scontrol --oneliner show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
        say "stopped with status $1 by the end of the job"
    elif [ "$restarts" -ge "${MAX_RESTARTS:-20}" ]; then
        say "stopped with status $1 after $restarts restarts, the most that MAX_RESTARTS allows"
    else
        say "stopped with status $1; back into the queue, restart $((restarts + 1))"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$1"
}

say() {
    echo "$(date '+%F %T') job ${SLURM_JOB_ID}, restart ${SLURM_RESTART_COUNT:-0}: $*"
}
