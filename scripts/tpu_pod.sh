#!/usr/bin/env bash
# Runs one command on every host of a Cloud TPU pod slice, from the checkout in ~/detr_jax on each of them.
#   TPU=name ZONE=zone bash scripts/tpu_pod.sh setup
#   TPU=name ZONE=zone bash scripts/tpu_pod.sh -m detr_jax.train --config=configs/detr.py:r50 --workdir=/mnt/nfs/runs/r50 ...
# The workdir and the data must lie on a disk that all hosts mount. After a preemption, the same command continues the run.
set -euo pipefail
: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
on_all_hosts() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
if [ "${1:-}" = setup ]; then
  gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" --worker=all "$(cd "$(dirname "$0")/.." && pwd)" "$TPU":~/detr_jax
  on_all_hosts 'cd ~/detr_jax && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt "jax[tpu]"'
else
  on_all_hosts "cd ~/detr_jax && .venv/bin/python $(printf '%q ' "$@")"
fi
