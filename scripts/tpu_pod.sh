#!/usr/bin/env bash
# Runs the programs on every host of a Cloud TPU slice, each from a copy of this checkout in ~/detr_jax.
#   export TPU=NAME ZONE=ZONE; ssh-add ~/.ssh/google_compute_engine
#   bash scripts/tpu_pod.sh setup                        copies the checkout and installs it; again after a change
#   bash scripts/tpu_pod.sh run -m detr_jax.doctor       runs Python with these arguments and waits for it
#   bash scripts/tpu_pod.sh start -m detr_jax.train --config=configs/detr.py:r50 --workdir=/mnt/nfs/runs/r50 ...
#                                                        the same in the background: this shell may go away
#   bash scripts/tpu_pod.sh log                          the end of run.log of every host
#   bash scripts/tpu_pod.sh stop                         asks what was started to save and to end
# The data and the workdir must lie on a disk that all hosts see. When a slice was preempted, create it again: setup and
# the same start continue the run.
set -euo pipefail
usage="usage: TPU=NAME ZONE=ZONE bash scripts/tpu_pod.sh setup | run ARGUMENTS | start ARGUMENTS | log | stop"
: "${TPU:?$usage}" "${ZONE:?$usage}" "${1:?$usage}"
verb=$1
shift
on_all_hosts() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
python=".venv/bin/python $(printf '%q ' "$@")"

case $verb in
  setup)
    cd "$(dirname "$0")/.."
    folder=$(mktemp -d)
    trap 'rm -r "$folder"' EXIT
    git ls-files -z --cached --others --exclude-standard | tar -cz --null -T - -f "$folder/detr_jax.tar.gz"
    gcloud compute tpus tpu-vm scp "$folder/detr_jax.tar.gz" "$TPU": --zone="$ZONE" --worker=all
    # The Python of the hosts may be too old; uv brings one.
    on_all_hosts 'mkdir -p detr_jax && tar -xzf detr_jax.tar.gz -C detr_jax && cd detr_jax &&
      PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv &&
      python3 -m uv venv --quiet --allow-existing --seed --python=3.12 &&
      .venv/bin/python -m pip install --quiet -r requirements.txt "jax[tpu]"'
    ;;
  run) on_all_hosts "cd detr_jax && $python" ;;
  start) on_all_hosts "cd detr_jax || exit; setsid $python >>run.log 2>&1 </dev/null & echo \$! >run.pid" ;;
  log) on_all_hosts 'tail -n 20 detr_jax/run.log' ;;
  stop) on_all_hosts 'xargs kill <detr_jax/run.pid' ;;
  *)
    echo "$usage" >&2
    exit 1
    ;;
esac
