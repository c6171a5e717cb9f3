"""The notebook of the documents runs from its first cell to its last, with a shorter training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = json.loads((REPOSITORY / "docs/first_detector.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_holds_no_output_of_a_machine():
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
def test_it_runs(tmp_path):
    """As Jupyter runs it, cell after cell in one process; the length of the training alone is another."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    code = "\n".join(CELLS)
    shorter = code.replace("settings.train.steps = 300", "settings.train.steps = 30").replace(
        "settings.train.eval_every = 150", "settings.train.eval_every = 15"
    )
    assert shorter != code
    environment = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", shorter], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 15: AP " in done.stdout and "step 30: AP " in done.stdout and "\n- " in done.stdout
    assert (tmp_path / "runs/notebook/report.html").exists()
