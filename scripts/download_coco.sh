#!/usr/bin/env bash
# Downloads COCO 2017 (train and val images, annotations) into DIR and unpacks it. Started again, it resumes. Needs about
# 46 GB of disk on the way and 21 GB at the end.   bash scripts/download_coco.sh [--dry_run] DIR
set -euo pipefail
dry_run=false
if [ "${1:-}" = "--dry_run" ]; then dry_run=true; shift; fi
dir=${1:?usage: bash scripts/download_coco.sh [--dry_run] DIR}
files=(  # path, bytes
  "annotations/annotations_trainval2017.zip 252907541"
  "zips/val2017.zip 815585330"
  "zips/train2017.zip 19336861798"
)
$dry_run || mkdir -p "$dir"
for entry in "${files[@]}"; do
  read -r path bytes <<<"$entry"
  url=http://images.cocodataset.org/$path
  zip=$dir/$(basename "$path")
  if $dry_run; then echo "$url $bytes bytes"; continue; fi
  case $path in
    annotations/*) done=$dir/annotations/instances_val2017.json ;;
    *) done=$dir/.$(basename "$path" .zip).done ;;
  esac
  if [ -e "$done" ]; then echo "there already: $(basename "$path" .zip)"; continue; fi
  curl --fail --location --retry 5 --continue-at - --output "$zip" "$url"
  size=$(wc -c <"$zip")
  if [ "$size" -ne "$bytes" ]; then
    echo "$zip has $size bytes instead of $bytes; delete it and run this again" >&2
    exit 1
  fi
  unzip -q -o "$zip" -d "$dir"
  [ -e "$done" ] || touch "$done"
  rm "$zip"
done
$dry_run || echo "next: python -m detr_jax.dataset prepare --name=coco --data_dir=data --root=$dir"
