"""Damaged inputs: every outcome is a right result or one sentence, within a gigabyte and ten seconds.

Other seeds: ``python -m tests.fuzz.run annotations 1000 SEED /tmp/fuzz``.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("kind, count", [("annotations", 300), ("images", 300), ("weights", 100)])
def test_damaged_inputs(kind, count, tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.run", kind, str(count), "0", str(tmp_path / "fuzz")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]  # nothing but what the program says itself
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["failures"] == {}, next(iter(said["failures"].items()))
    assert said["outcomes"].keys() == {"right", "refused"} and min(said["outcomes"].values()) > 5
    assert said["megabytes"] < 1000
