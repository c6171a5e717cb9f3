"""A run that is asked to stop, anywhere: obeyed within seconds, in one line, and it goes on bit for bit."""

import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from detr_jax.weights.manifest import damage
from tests.programs import (
    OPTIMISED,
    assert_same_state,
    finish,
    last_logged,
    numbers,
    rows,
    saved_steps,
    wait_for,
)

LONG = ("--config.train.steps=300", "--config.train.log_every=1", "--config.train.eval_every=300")
LONG += ("--config.train.checkpoint_every=1000",)
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"} | OPTIMISED
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
# Reading step 5 never ends, in native code that no signal interrupts.
HANGING_READ = """
import ctypes
from detr_jax.batches import pipeline
load_batch, planned = pipeline.load_batch, []
def hang(*arguments):
    planned.append(arguments)
    if len(planned) == 6:
        mutex, native = ctypes.create_string_buffer(64), ctypes.CDLL(None)
        while True:
            native.pthread_mutex_lock(mutex)
    return load_batch(*arguments)
pipeline.load_batch = hang
"""
SLOW_SAVE = """
import pathlib, sys, time
from detr_jax.weights.checkpoints import Checkpoints
before_commit = Checkpoints._before_commit
def wait(self):
    (self.folder.parent / "saving").touch()
    time.sleep(6)
    before_commit(self)
Checkpoints._before_commit = wait
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_running")]


class Ended(NamedTuple):
    status: int
    out: str
    err: str
    seconds: float  # since it was asked to stop


def ask(process: subprocess.Popen, *asked: int, pause: float = 0.05) -> Ended:
    """Sends these signals and waits for the end."""
    begin = time.monotonic()
    for number in asked:
        process.send_signal(number)
        time.sleep(pause)
    return Ended(*finish(process), time.monotonic() - begin)


def assert_saved(ended: Ended, workdir, step: int | None = None) -> int:
    """The run ended well and quickly with a checkpoint, which it tells once, and nothing on standard error."""
    assert (ended.status, ended.err) == (0, ""), ended
    assert ended.seconds < 20
    last = saved_steps(workdir)[-1]
    assert step in (None, last) and damage(workdir / f"checkpoints/{last}") is None
    (told,) = [line for line in ended.out.splitlines() if line.startswith("stopped ")]
    assert told.startswith(f"stopped as asked; step {last} is saved, and this goes on from there: {sys.executable} ")
    assert f"--workdir={workdir}" in told
    return last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_stopped_run_saves_and_goes_on_bit_for_bit(programs, tmp_path, number):
    process = programs.start("train", *programs.training(tmp_path / "run", *LONG))
    wait_for(lambda: last_logged(tmp_path / "run") >= 5)
    stopped_at = assert_saved(ask(process, number), tmp_path / "run")
    assert 5 <= stopped_at < 300
    assert f"continues at step {stopped_at}" in programs.go_on(tmp_path / "run", *LONG)
    unbroken = programs.folder / "three hundred"
    if not unbroken.exists():
        programs.go_on(unbroken, *LONG)
    assert_same_state(tmp_path / "run", unbroken, 300)
    assert numbers(tmp_path / "run") == numbers(unbroken)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_stopped_in_imports(programs, tmp_path, number, seconds):
    process = programs.start("train", *programs.training(tmp_path / "run", *LONG))
    time.sleep(seconds)
    ended = ask(process, number)
    assert ended.status in (-number, 128 + number) and ended.seconds < 10  # -number: before Python is there
    assert ended.err in ("", f"stopped by {number.name}\n") and not ended.out
    assert ended.err or ended.status < 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", SIGNALS[:2], ids=lambda number: number.name)
def test_stopped_in_compilation(programs, tmp_path, number):
    process = programs.start("train", *programs.training(tmp_path / "run", *LONG), **UNCACHED)
    wait_for(lambda: (tmp_path / "run/train.log").exists())
    time.sleep(3)
    ended = ask(process, number)
    assert (ended.status, ended.err) == (0, "") and ended.seconds < 15
    assert ended.out.splitlines()[-1].startswith("stopped as asked; ") and "compiled" not in ended.out


@pytest.mark.parametrize("threads", [0, 1])
def test_stopped_in_a_read_that_hangs(programs, tmp_path, threads):
    arguments = programs.training(tmp_path / "run", *LONG, f"--config.data.threads={threads}")
    process = programs.start_changed(HANGING_READ, *arguments)
    wait_for(lambda: last_logged(tmp_path / "run") >= 3)
    time.sleep(2)
    ended = ask(process, signal.SIGTERM)
    assert ended.status == 0 and ended.err == "" and ended.seconds < 15
    assert [line for line in ended.out.splitlines() if line.startswith("stopped as asked; ")]
    assert ended.out.count("stopped as asked") == 1


def test_stopped_in_a_save(programs, tmp_path):
    """The save is finished first, and the step that was reached meanwhile is saved as well."""
    more = ("--config.train.checkpoint_every=10", *LONG[:-1])
    process = programs.start_changed(SLOW_SAVE, *programs.training(tmp_path / "run", *more))
    wait_for(lambda: (tmp_path / "run/saving").exists())
    ended = ask(process, signal.SIGTERM)
    last = assert_saved(ended._replace(seconds=max(ended.seconds - 12, 0)), tmp_path / "run")
    assert last >= 10 and saved_steps(tmp_path / "run")[0] == 10


@pytest.mark.parametrize("in_compilation", [False, True])
def test_a_second_signal_ends_the_run_at_once(programs, tmp_path, in_compilation):
    environment = UNCACHED if in_compilation else {}
    process = programs.start("train", *programs.training(tmp_path / "run", *LONG), **environment)
    if in_compilation:
        wait_for(lambda: (tmp_path / "run/train.log").exists())
        time.sleep(3)
    else:
        wait_for(lambda: last_logged(tmp_path / "run") >= 5)
    ended = ask(process, signal.SIGINT, signal.SIGINT)
    assert (ended.status, ended.err) == (130, "") and ended.seconds < 5
    (told,) = [line for line in ended.out.splitlines() if line.startswith("stopped ")]
    how = "stopped (at once|as asked)" if in_compilation else "stopped at once"  # the first may be obeyed by then
    assert re.match(
        f"{how}; nothing is saved, this starts again: {re.escape(sys.executable)} -m detr_jax.train ", told
    ), told


def test_stopped_during_an_evaluation(programs, tmp_path):
    """The evaluation is broken off, and made up for once by the next start."""
    more = ("--config.data.val_split=train", "--config.train.batch_size=1", "--config.train.checkpoint_every=1000")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(
        lambda: last_logged(tmp_path / "run") >= 3
    )  # step 3 is logged, then it is evaluated; compiling takes seconds
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 0, err
    assert saved_steps(tmp_path / "run")[-1] == 3
    programs.go_on(tmp_path / "run", *more)
    programs.go_on(tmp_path / "run", *more)
    programs.go_on(tmp_path / "unbroken", *more)
    assert_same_state(tmp_path / "run", tmp_path / "unbroken", 6)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "unbroken")


def test_stopped_during_the_last_evaluation(programs, tmp_path):
    """As above, at the end: the evaluation is made up for once, takes part in the choice of the best, and is kept."""
    more = ("--config.train.steps=3", "--config.train.checkpoint_every=1000")
    process = programs.start("train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: last_logged(tmp_path / "run") >= 3)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0
    for _ in range(2):
        programs.go_on(tmp_path / "run", *more)
        assert [row["step"] for row in rows(tmp_path / "run") if "coco_eval_bbox" in row] == [3]
    assert (tmp_path / "run/checkpoints/best").resolve().name == "3"
