#!/usr/bin/env bash
# Installs what the tests need into .venv, checks the style and runs the tests; --slow adds the long ones.
# Tests on real photos need DETR_JAX_REAL_DATA, a folder that holds coco128, bccd, weights, ...
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/python -m pytest -n 2 --dist loadfile
if [ "${1:-}" = "--slow" ]; then .venv/bin/python -m pytest -m slow -n 2 --dist worksteal; fi
