#!/usr/bin/env bash
# Measures a GPU in at most nine minutes, without network and data: agreement with the CPU, steps, inference, PyTorch.
#   bash scripts/gpu_report.sh [OUTPUT]          PYTHON=python3 MINUTES=9 PARTS="agree step_r50 vs_torch ..." TINY=1
# The most important parts come first. Parts for which no time is left are listed; PARTS="NAME ..." runs them alone.
# Compiled programs stay in OUTPUT/cache, so a second run gets further. TINY=1 tries every part on a CPU. PHOTOS=DIR, a
# folder with coco128 as prepared, adds the host's images per second and a short training.
# Needs jax with CUDA and this package's requirements; the parts vs_torch also need torch and transformers.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
output=${1:-gpu_report}
python=${PYTHON:-python3}
deadline=$((SECONDS + ${MINUTES:-9} * 60))
mkdir -p "$output"
JAX_COMPILATION_CACHE_DIR=$(realpath "$output")/cache
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR

r50=configs/detr.py:r50
batch=--config.train.batch_size=16
bf16=--config.dtype=bfloat16
small=("--canvas=256,320" --batch_sizes=2)
infer=("--canvas=800,1088" "--batch_sizes=1,16")
steps=(--canvases=3 --rounds=10)
few=(--canvases=1 --rounds=10)
torch=(--batch_sizes=16 --dtype=bfloat16 --what=step --canvas=800x1088 --mix=8 --rounds=5)
torch_infer=("--batch_sizes=1,16" --what=forward --canvas=800x1088 --rounds=10)
kernel=pallas
photos=${PHOTOS:+--config.data.name=coco128 --config.data.dir=$PHOTOS}
if [ -n "${TINY:-}" ]; then
  tiny="--config.model.backbone_width=8 --config.model.hidden_dim=32 --config.model.encoder_layers=1
        --config.model.decoder_layers=2 --config.model.feed_forward_dim=64 --config.data.buckets=((64,96,100),)
        --config.data.scales=(64,) --config.data.max_size=96"
  r50="$r50 $tiny"
  batch=--config.train.batch_size=2
  kernel=loop
  small=("--canvas=64,96" --batch_sizes=2 --rounds=1)
  infer=("--canvas=64,96" "--batch_sizes=1,2" --rounds=2)
  steps=(--canvases=1 --rounds=2)
  few=(--canvases=1 --rounds=2)
  torch=(--batch_sizes=2 --what=step --canvas=64x96 --rounds=2 --narrow)
  torch_infer=("--batch_sizes=1,2" --what=forward --canvas=64x96 --rounds=2 --narrow)
fi

rm -f "$output"/*.txt "$output"/times
part() { # NAME COMMAND...: runs the command if time is left, and records how it went
  local name=$1 left=$((deadline - SECONDS)) begin=$SECONDS
  shift
  case " ${PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
  if [ "$left" -lt 10 ]; then
    echo "$name: no time left" | tee -a "$output/times"
    return
  fi
  if timeout "$left" "$@" >"$output/$name.txt" 2>&1; then how="done"; else how="failed with status $?"; fi
  echo "$name: $how in $((SECONDS - begin)) s" | tee -a "$output/times"
}
bench() { # NAME VERB FLAGS...
  local name=$1
  shift
  part "$name" "$python" -m detr_jax.benchmark "$@" --output="$output/$name"
}

# shellcheck disable=SC2086  # the words of $r50 and $photos are flags
{
  bench agree agree --config=$r50 "${small[@]}"
  bench step_r50 step --config=$r50 $batch $bf16 --profile "${steps[@]}"
  part vs_torch "$python" scripts/benchmark_vs_torch.py "${torch[@]}" --output="$output/vs_torch"
  bench match match --rounds=3
  part vs_torch_inference "$python" scripts/benchmark_vs_torch.py "${torch_infer[@]}" --dtype=bfloat16 --output="$output/vs_torch_inference"
  bench infer_bf16 infer --config=$r50 $bf16 "${infer[@]}"
  bench step_fast step --config=${r50/r50/r50,fast} $batch $bf16 "${few[@]}"
  bench step_device step --config=$r50 $batch $bf16 --config.data.resize=device "${few[@]}"
  bench step_remat step --config=$r50 $batch $bf16 --config.train.remat=True "${few[@]}"
  bench step_pallas step --config=$r50 $batch $bf16 --config.train.matcher=$kernel "${few[@]}"
  bench step_float32 step --config=$r50 $batch "${few[@]}"
  bench step_r101 step --config=${r50/r50/r101} $batch $bf16 "${few[@]}"
  bench step_dc5 step --config=${r50/r50/r50_dc5} $batch $bf16 "${few[@]}"
  bench infer_float32 infer --config=$r50 "${infer[@]}"
  part vs_torch_compiled "$python" scripts/benchmark_vs_torch.py "${torch[@]/--mix=8/--mix=0}" --compile --output="$output/vs_torch_compiled"
  if [ -n "$photos" ]; then
    bench data data --config=$r50 $photos --threads=1,4,16
    part train "$python" -m detr_jax.train --config=$r50 $batch $bf16 $photos --config.data.resize=device \
      --config.model.backbone_weights= \
      --config.train.steps=200 --config.train.log_every=20 --config.train.eval_every=200 --workdir="$output/train_workdir"
  fi
}

"$python" - "$output" <<'END'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
report = {"times": (folder / "times").read_text().splitlines()}
for path in sorted(folder.glob("*/benchmark*.json")):
    report[path.parent.name] = json.loads(path.read_text())
(folder / "gpu_report.json").write_text(json.dumps(report, indent=1))
END
shopt -s nullglob
for file in "$output"/*.txt; do
  printf '\n== %s\n' "$(basename "$file" .txt)"
  grep -v -i -E "warning|^compiled|^$" "$file" | tail -n 40
done
! grep -q failed "$output/times"
