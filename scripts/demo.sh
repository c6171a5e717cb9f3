#!/usr/bin/env bash
# Installs into .venv, then trains, evaluates and draws on the embedded dataset. A CPU is enough; about 3 minutes.
#   bash scripts/demo.sh [WORDS of configs/shapes.py, "fast" by default: encoder-selected queries + focal loss;
#                         plain DETR: configs/shapes.py:plain]
set -euo pipefail
cd "$(dirname "$0")/.."
words=${1:-fast}
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
.venv/bin/python -m detr_jax.train --config=configs/shapes.py:"$words" --workdir=runs/"$words"
.venv/bin/python -m detr_jax.evaluate --workdir=runs/"$words"
.venv/bin/python -m detr_jax.dataset show --data_dir=data --name=shapes --split=val --n=16 --output=runs/"$words"/dataset.png
echo "Trained was configs/shapes.py:$words (fast: encoder-selected queries + focal loss; plain DETR: configs/shapes.py:plain)"
echo "Look at runs/$words: report.html, curves.png, samples/ (annotations left, detections right), eval/, dataset.png"
