# shellcheck shell=bash
# Sourced by the launchers: what all of them know about this machine.
launchers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$launchers/../.venv/bin/python}
[ -x "$(command -v "$PYTHON")" ] || PYTHON=python3
export PYTHON

# Prints the usage line of the calling script, the second one of its head, and leaves.
usage() {
    sed -n 's/^# usage: /usage: /p' "$0" >&2
    exit 2
}

# Whether ranks compute on the CPU.
on_cpu() {
    [ "${DS_ACCELERATOR:-}" = cpu ] || ! command -v nvidia-smi >/dev/null
}

# Sets the threads of each of $1 ranks of this machine: they share the cores, and more threads than cores make every
# rank wait.
share_threads() {
    local cores
    cores=$(nproc)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > $1 ? cores / $1 : 1))}
}

# Reads a hostfile, "HOST slots=RANKS" a line, into hosts and slots.
read_hostfile() {
    local host count _
    hosts=() slots=()
    while read -r host count _; do
        case $host in '' | '#'*) continue ;; esac
        if ! [[ $count =~ ^slots=[1-9][0-9]*$ ]]; then
            echo "$1: line '$host${count:+ $count}': write HOST slots=RANKS" >&2
            exit 2
        fi
        hosts+=("$host") slots+=("${count#slots=}")
    done <"$1" || exit 2
    if [ ${#hosts[@]} -eq 0 ]; then
        echo "$1: names no host; write HOST slots=RANKS, a line each" >&2
        exit 2
    fi
}
