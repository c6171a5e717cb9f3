"""The health check of the Docker image: status 1 when the container's training has written nothing for an hour.

A training writes into its workdir at least every ``train.log_every`` steps. Other programs, and trainings whose workdir
is a bucket, are healthy as long as they run. It needs no JAX, so it takes nothing from the training.
"""

import os
import sys
import time
from pathlib import Path

LIMIT = 3600  # seconds; compiling, and an evaluation of COCO on a CPU, take less


def find_workdir(command: list[str]) -> Path | None:
    """The folder that a training's arguments name with --workdir; None for other commands and for buckets."""
    if "detr_jax.train" not in command:
        return None
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("--workdir", "-workdir"):
            value = value if equals else following
            return None if "://" in value else Path(value)
    return None


def seconds_idle(process: Path, now: float) -> float:
    """How long the training of a process, such as /proc/1, has written nothing; 0 when it is none."""
    workdir = find_workdir((process / "cmdline").read_text().split("\0"))
    if workdir is None:
        return 0.0
    written = [process.stat().st_mtime]  # its start
    if workdir.is_dir():
        written += [entry.stat().st_mtime for entry in os.scandir(workdir)]
    return now - max(written)


if __name__ == "__main__":
    idle = seconds_idle(Path("/proc/1"), time.time())
    print(f"a training wrote nothing for {idle:.0f} s" if idle else "no training")
    sys.exit(idle > LIMIT)
