"""A workdir that cannot be written any more: the run ends at once, in one sentence, and loses nothing."""

import contextlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import (
    Programs,
    assert_one_sentence,
    assert_same_state,
    finish,
    last_logged,
    numbers,
    saved_steps,
    wait_for,
)

MORE = ("--config.train.steps=60", "--config.train.log_every=1", "--config.train.eval_every=100")
MORE += ("--config.train.checkpoint_every=5",)
# A step takes long enough to count those between a fault and the end.
SLOW_STEPS = """
import time
from detr_jax.batches import pipeline
load_batch = pipeline.load_batch
def wait(*arguments):
    time.sleep(0.5)
    return load_batch(*arguments)
pipeline.load_batch = wait
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leaves_nothing_running")]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own in this folder."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root, with the right to mount, can make a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def start(programs: Programs, workdir: Path) -> subprocess.Popen:
    process = programs.start_changed(SLOW_STEPS, *programs.training(workdir, *MORE))
    wait_for(lambda: last_logged(workdir) >= 6)
    return process


def assert_told(process: subprocess.Popen, *words: str) -> None:
    """The program ends with one sentence that holds these words."""
    assert_one_sentence(subprocess.CompletedProcess(process.args, *finish(process)), "cannot write into", *words)


def assert_goes_on(programs: Programs, workdir: Path) -> None:
    """With room made the same command ends like an unbroken run."""
    programs.go_on(workdir, *MORE)
    unbroken = programs.folder / "sixty steps"
    if not unbroken.exists():
        programs.go_on(unbroken, *MORE)
    assert_same_state(workdir, unbroken, 60)
    assert numbers(workdir) == numbers(unbroken)


def test_files_that_may_not_grow(programs, tmp_path):
    process = start(programs, tmp_path / "run")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert_told(process, "File too large", "ulimit -f")
    assert last_logged(tmp_path / "run") <= 12  # the save at step 10 failed, and a step is half a second
    assert saved_steps(tmp_path / "run") in ([], [5])  # the limit may have come during the first save
    assert_goes_on(programs, tmp_path / "run")


def test_a_full_disk(programs, tmp_path):
    workdir = tmp_path / "run"
    with small_disk(workdir, "200m"):
        process = start(programs, workdir)
        with (workdir / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 16))
        begun = last_logged(workdir)
        assert_told(process, "No space left on device", "make room")
        assert last_logged(workdir) <= begun + 6  # a few rows fit into the last page; the next save does not
        (workdir / "filler").unlink()
        assert_goes_on(programs, workdir)


def test_a_disk_that_becomes_read_only(programs, tmp_path):
    checkpoints = tmp_path / "run/checkpoints"
    with small_disk(checkpoints, "200m"):
        process = start(programs, tmp_path / "run")
        wait_for(lambda: bool(saved_steps(tmp_path / "run")))
        remount = ["mount", "-o", "remount,ro", str(checkpoints)]
        wait_for(lambda: not subprocess.run(remount, capture_output=True).returncode)  # not while it writes
        saved = saved_steps(tmp_path / "run")
        assert_told(process, "Read-only file system", "make it writable")
        assert last_logged(tmp_path / "run") <= saved[-1] + 7
        subprocess.run(["mount", "-o", "remount,rw", str(checkpoints)], check=True)
        assert saved_steps(tmp_path / "run") == saved
        assert_goes_on(programs, tmp_path / "run")


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_workdir_that_goes_away(programs, tmp_path, how):
    process = start(programs, tmp_path / "run")
    begin, last = time.monotonic(), last_logged(tmp_path / "run")
    if how == "removed":
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    else:
        (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert_told(process, "No such file or directory", "put it back")
    assert time.monotonic() - begin < 15
    if how == "moved":
        assert last_logged(tmp_path / "elsewhere") <= last + 2
        shutil.rmtree(tmp_path / "run", ignore_errors=True)  # where a save was going on
        (tmp_path / "elsewhere").rename(tmp_path / "run")
        assert_goes_on(programs, tmp_path / "run")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_save_that_fails_on_one_host_ends_them_all(programs, tmp_path, victim):
    """The host says what is wrong, the other one whom it misses; nobody waits for a save that cannot end."""
    more = ("--config.train.batch_size=2", "--config.train.fsdp=2", "--config.train.steps=5000", *MORE[1:])
    processes = programs.start_hosts(2, "train", *programs.training(tmp_path / "run", *more))
    wait_for(lambda: last_logged(tmp_path / "run") >= 2)
    resource.prlimit(processes[victim].pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    (status, _, err), (other_status, _, other_err) = (finish(processes[index], 90) for index in (victim, 1 - victim))
    assert (status, other_status) == (1, 1)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "cannot write into" in told[0] and "File too large" in told[0], err
    assert "Traceback" not in err + other_err
    assert f"error: lost contact with process {victim}" in other_err, other_err
