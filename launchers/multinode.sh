#!/usr/bin/env bash
# Starts this machine's ranks of a run over several machines, by torchrun; to be called on each of them.
# usage: launchers/multinode.sh HOSTFILE VERB [ARGUMENTS...]
# The first host of the hostfile ("HOST slots=RANKS" a line, as DeepSpeed reads it) is the meeting point, at MASTER_PORT
# (29500). A machine finds itself by its names and addresses; NODE_RANK=0, 1, ... tells it where that fails.
# Example, on all of them at once: pdsh -w ^hosts "cd $PWD && launchers/multinode.sh hostfile unlearn run.yaml"
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[ $# -ge 2 ] || usage
hostfile=$1
shift
read_hostfile "$hostfile"

# Number of this machine in the hostfile.
own_number() {
    local names number
    names=" $(hostname) $(hostname -s) $(hostname -f 2>/dev/null || true) $(hostname -I 2>/dev/null || true) "
    for number in "${!hosts[@]}"; do
        if [[ $names == *" ${hosts[number]} "* ]]; then
            echo "$number"
            return
        fi
    done
    echo "$hostfile: does not name this machine ($names); add it, or set NODE_RANK" >&2
    exit 2
}

node=${NODE_RANK:-$(own_number)}
if ! [[ $node =~ ^[0-9]+$ ]] || [ "$node" -ge ${#hosts[@]} ]; then
    echo "NODE_RANK=$node: $hostfile has the hosts 0 to $((${#hosts[@]} - 1))" >&2
    exit 2
fi
share_threads "${slots[node]}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
exec "$PYTHON" -m torch.distributed.run --nnodes="${#hosts[@]}" --nproc-per-node="${slots[node]}" \
    --rdzv-backend=c10d --rdzv-endpoint="${hosts[0]}:${MASTER_PORT:-29500}" --rdzv-id="altpo-$(cksum <"$hostfile" | cut -d ' ' -f 1)" \
    --rdzv-conf="is_host=$([ "$node" -eq 0 ] && echo 1 || echo 0),join_timeout=600" --local-addr="${hosts[node]}" \
    --no-python "$launchers/rank.sh" "$@"
