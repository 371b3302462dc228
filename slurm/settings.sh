# shellcheck shell=bash
# shellcheck disable=SC2034
# Sourced by the jobs and by launchers/srun.sh: what slurm/env.sh says of this cluster, with defaults.
PREEMPTED='85|138|143' # what a run that was told to end leaves with: after saving, or before Python heard it (USR1, TERM)
CONTAINER=() SRUN_OPTIONS=()
if [ -f "$(dirname "${BASH_SOURCE[0]}")/env.sh" ]; then
    # shellcheck source=slurm/env.sh.example
    source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
fi
