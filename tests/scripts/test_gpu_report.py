"""The GPU report, run on a CPU at a tiny size: its parts run and give their figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# One of each kind: the others differ in a word of the configuration, and each takes a minute to compile.
PARTS = "agree step_r50 match infer_bf16 step_fast step_device step_remat"

SMALL = {"TINY": "1", "MINUTES": "30", "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiled for one short step


@pytest.mark.slow
def test_its_parts_run(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        ["bash", "scripts/gpu_report.sh", str(tmp_path)],
        cwd=REPOSITORY,
        env=environment | SMALL | {"PYTHON": sys.executable, "PARTS": PARTS},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu_report.json").read_text())
    assert set(PARTS.split()) == report.keys() - {"times"}
    agreed = report["agree"]["agree"]
    assert agreed["relative_differences"][0]["gradients"] == 0.0 and agreed["apart"] == 0.0  # a CPU beside itself
    assert 0 < agreed["relative_differences"][2]["outputs"] < 0.1  # bfloat16 was really used
    for part in (part for part in PARTS.split() if part.startswith("step")):
        figures = report[part]["step"]
        assert figures["canvases"][0]["finite"] and figures["images_per_second"] > 0


def test_a_part_without_time_left_is_named(tmp_path):
    done = subprocess.run(
        ["bash", "scripts/gpu_report.sh", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHON": sys.executable, "MINUTES": "0", "PARTS": "agree match"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "gpu_report.json").read_text())["times"] == [
        "agree: no time left",
        "match: no time left",
    ]
