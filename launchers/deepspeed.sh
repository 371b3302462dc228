#!/usr/bin/env bash
# Starts a run on the machines of a hostfile by DeepSpeed's launcher; to be called on one of them.
# usage: launchers/deepspeed.sh HOSTFILE VERB [ARGUMENTS...]
# The hostfile has "HOST slots=RANKS" a line. Several machines need pdsh and ssh without a password, and this folder
# and its environment at the same path; variables for them go into .deepspeed_env. MASTER_PORT is 29500 unless set.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[ $# -ge 2 ] || usage
hostfile=$1
shift
read_hostfile "$hostfile"
options=(--hostfile "$hostfile" --master_port "${MASTER_PORT:-29500}" --no_python --no_local_rank --quiet)
if [ ${#hosts[@]} -eq 1 ]; then
    options+=(--no_ssh --node_rank 0 --master_addr "${hosts[0]}")
elif ! command -v pdsh >/dev/null; then
    echo "$hostfile: names ${#hosts[@]} hosts, which needs pdsh: install it, or call launchers/multinode.sh on each" >&2
    exit 2
fi
# pdsh hands its words to a shell of the other machine, so they travel packed
packed=$(printf '%s\0' "$@" | base64 -w 0)
exec "$PYTHON" -m deepspeed.launcher.runner "${options[@]}" "$launchers/rank.sh" --packed "$packed"
