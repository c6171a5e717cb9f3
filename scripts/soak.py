"""Kills and resumes a run again and again; it must end as an unbroken run does, bit for bit.

    python scripts/soak.py [--cycles=200] [--seed=0] [--workdir=runs/soak]

Each cycle starts the same tiny training in a process of its own and ends it at a random moment with SIGKILL, SIGTERM,
SIGINT or SIGUSR1: in its start, a step, a save, an evaluation. Then the run is finished, and so is one that nothing
has disturbed. Prints one line a cycle and a summary; the exit status is 1 when the two differ, when a checkpoint was
lost, or when a signal was not obeyed.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detr_jax import cli, doctor, signals, train  # noqa: E402
from detr_jax.config import Config  # noqa: E402
from detr_jax.datasets import shapes  # noqa: E402
from detr_jax.weights.checkpoints import read_numpy, steps  # noqa: E402

POLITE = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LONGEST = 10.0  # seconds until a cycle is ended
PATIENCE = 60.0  # seconds in which a signal must be obeyed, on a busy machine
CLOCK = ("images_per_second", "data_wait")  # what differs between two equal runs


def start(config: Config, workdir: Path) -> int:
    """Forks a training, before JAX has threads; returns the number of its process."""
    child = os.fork()
    if child:
        return child
    with (workdir.parent / "output.txt").open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    def main(argv: list[str]) -> None:
        jax.config.update("jax_compilation_cache_dir", str((workdir.parent / "cache").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        if not train.train(config, workdir):
            signals.leave(0)

    sys.argv[1:] = []
    status = 1
    try:
        cli.run(main, lambda: None)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a process (negative: the signal that ended it); None when it still runs after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def last_step(workdir: Path) -> int:
    """The step of the newest checkpoint; 0 without any."""
    return max(steps(workdir / "checkpoints"), default=0)


def disturb(config: Config, workdir: Path, rng: random.Random, faults: Counter) -> str:
    """Starts a run and ends it at a random moment; what it did wrong is counted. Returns a line about it."""
    before, number = last_step(workdir), rng.choice((signal.SIGKILL, signal.SIGKILL, *POLITE))
    child = start(config, workdir)
    status = wait(child, rng.uniform(0.0, LONGEST))
    if status is None:
        os.kill(child, number)
        status = wait(child, PATIENCE)
        if status is None:
            faults["a signal was not obeyed"] += 1
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        elif number in POLITE and status not in (0, 128 + number):
            faults[f"status {status} after {number.name}"] += 1
    elif status:
        faults[f"status {status} without a signal"] += 1
    after = last_step(workdir)
    faults["a checkpoint was lost"] += after < before
    return f"{number.name}, status {status}, step {before} -> {after}"


def digest(workdir: Path) -> str:
    """Of every array of the last checkpoint and every row of the log."""
    found, checkpoint = hashlib.sha256(), workdir / "checkpoints" / str(last_step(workdir))
    for item in ("model", "progress"):
        for path, leaf in jax.tree.leaves_with_path(read_numpy(checkpoint, item)):
            found.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = {key: value for key, value in json.loads(line).items() if key not in CLOCK}
        found.update(json.dumps(row).encode())
    return found.hexdigest()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()
    shutil.rmtree(args.workdir, ignore_errors=True)
    shapes.prepare(args.workdir / "data", "smoke", shapes.Settings(train=12, val=4, size=doctor.SIZE))
    config = doctor.make_smoke_config(args.workdir / "data", 1)
    often = dataclasses.replace(config.train, steps=10**6, checkpoint_every=2, eval_every=15, keep=3)
    wait(start(config, args.workdir / "warm"), 3600)  # fills the cache of compiled programs
    broken, rng, faults = args.workdir / "broken", random.Random(args.seed), Counter()
    for cycle in range(1, args.cycles + 1):
        line = disturb(dataclasses.replace(config, train=often), broken, rng, faults)
        print(f"cycle {cycle}: {line}", flush=True)
    end = dataclasses.replace(config, train=dataclasses.replace(often, steps=last_step(broken) + 5))
    for workdir in (broken, args.workdir / "unbroken"):
        if status := wait(start(end, workdir), 36_000):
            faults[f"status {status} of {workdir.name}"] += 1
    equal = digest(broken) == digest(args.workdir / "unbroken")
    outcome = "equal" if equal else "DIFFERENT"
    print(f"{args.cycles} cycles, seed {args.seed}, {last_step(broken)} steps: {outcome}, faults: {dict(+faults)}")
    return 0 if equal and not +faults else 1


if __name__ == "__main__":
    sys.exit(main())
