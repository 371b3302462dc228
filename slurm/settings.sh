# shellcheck shell=bash
# shellcheck disable=SC2034
# Sourced by the jobs and by launchers/srun.sh: what slurm/env.sh says of this cluster, with defaults.
CONTAINER=() SRUN_OPTIONS=()
if [ -f "$(dirname "${BASH_SOURCE[0]}")/env.sh" ]; then
    # shellcheck source=slurm/env.sh.example
    source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
fi
