"""The Slurm script with a ``srun`` and a ``scontrol`` that note what they are asked: when does the job come back?"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import REPOSITORY, wait_for

SCRIPT = REPOSITORY / "scripts/slurm.sbatch"
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do echo "$1" >>"$NOTES/srun"; shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$NOTES/scontrol"
"""
# A training: ends with status $STATUS, or waits to be asked to save.
TRAINING = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    (notes / "saved").touch()
    os._exit(0)
signal.signal(signal.SIGUSR1, save)
notes = pathlib.Path(os.environ["NOTES"])
(notes / "new").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
(notes / "new").rename(notes / "started")
if os.environ["STATUS"]:
    sys.exit(int(os.environ["STATUS"]))
time.sleep(60)
"""
ARGUMENTS = ("--config=configs/detr.py:r50", "--workdir=/shared/a run")


class Job:
    """A job on one node; ``folder`` holds what it did."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, "training": TRAINING}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def start(self, status: str = "", **changes: str) -> subprocess.Popen:
        environment = os.environ | {
            "PATH": f"{self.folder}:{os.environ['PATH']}", "NOTES": str(self.folder / "notes"), "STATUS": status,
            "PYTHON": str(self.folder / "training"), "SLURM_JOB_ID": "12", "SLURM_GPUS_ON_NODE": "8",
            "SLURM_CPUS_PER_TASK": "32",
        }  # fmt: skip
        (self.folder / "notes").mkdir()
        return subprocess.Popen(
            ["bash", SCRIPT, *ARGUMENTS], env=environment | changes, stdout=subprocess.PIPE, text=True
        )

    def noted(self, name: str) -> str:
        path = self.folder / "notes" / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path)


def test_a_run_that_is_done_stays_done(job):
    process = job.start(status="0")
    assert process.wait(30) == 0 and job.noted("scontrol") == ""
    arguments, environment = json.loads(job.noted("started"))
    assert arguments == ["-m", "detr_jax.train", *ARGUMENTS]
    assert environment["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3,4,5,6,7"  # else JAX takes the first GPU alone
    assert environment["SRUN_CPUS_PER_TASK"] == "32"  # else srun gives one core


def test_the_time_limit_saves_and_brings_the_job_back(job):
    process = job.start()
    wait_for(lambda: job.noted("started"), 30)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert (job.folder / "notes/saved").exists()  # before it went back
    assert job.noted("scontrol") == "requeue 12\n"


@pytest.mark.parametrize(
    ("status", "restarts", "comes_back"),
    [("1", "0", False), ("137", "0", False), ("75", "0", True), ("75", "9", True), ("75", "10", False)],
)
def test_failures_end_the_job_and_hangs_bring_it_back(job, status, restarts, comes_back):
    process = job.start(status=status, SLURM_RESTART_COUNT=restarts)
    assert process.wait(30) == int(status)
    assert job.noted("scontrol") == ("requeue 12\n" if comes_back else "")


def test_what_slurm_is_asked(job):
    """The signal comes to this script (B:), and early enough; options must stand before the first command."""
    lines = SCRIPT.read_text().splitlines()
    options = [line for line in lines if line.startswith("#SBATCH ")]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(option) < first_command for option in options)
    (seconds,) = re.findall(r"--signal=B:USR1@(\d+)", "\n".join(options))
    assert int(seconds) >= 120 and "#SBATCH --requeue" in options and "#SBATCH --open-mode=append" in options
