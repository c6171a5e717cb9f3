"""The comparison with PyTorch, at a tiny size: both sides run the same steps."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_both_sides_are_timed(tmp_path):
    command = [sys.executable, "scripts/benchmark_vs_torch.py", "--narrow", "--canvas=64x96", "--rounds=2", "--mix=2"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}"], cwd=REPOSITORY, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "benchmark_vs_torch.json").read_text())["rows"]
    assert [row["what"] for row in rows][:4] == [
        "forward, 1 x 64x96", "forward, 2 x 64x96", "step, 1 x 64x96", "step, 2 x 64x96",
    ]  # fmt: skip
    assert "augmented" in rows[4]["what"]
    for row in rows:
        assert row["ratio"] > 0 and row["images_per_second"] > 0 and "s (" in row["PyTorch"]
