"""One run at a time in a workdir: a second one is refused, whatever the host; what is stale is taken over."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from detr_jax.errors import UserError
from detr_jax.training import lock
from detr_jax.training.lock import WorkdirLock

HOLD = """
import sys, time
from pathlib import Path
from detr_jax.training.lock import WorkdirLock
with WorkdirLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 0.5)


def hold(workdir: Path) -> subprocess.Popen:
    """Another process that holds the lock until its standard input ends."""
    command = [sys.executable, "-c", HOLD, str(workdir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def owner(workdir: Path) -> dict:
    return json.loads((workdir / "run.lock").read_text())


def test_the_file_names_the_owner_and_goes_at_the_end(tmp_path):
    with WorkdirLock(tmp_path):
        assert owner(tmp_path).keys() == {"host", "pid", "since"}
        assert owner(tmp_path)["host"] == platform.node() and owner(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    with WorkdirLock(tmp_path):  # and again
        pass


def test_folders_are_made_and_go_unless_they_are_used(tmp_path):
    with WorkdirLock(tmp_path / "runs/a"):
        assert (tmp_path / "runs/a").is_dir()
    assert list(tmp_path.iterdir()) == []
    with WorkdirLock(tmp_path / "runs/a"):
        (tmp_path / "runs/b").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]


def test_a_second_run_is_refused_in_another_process_and_in_this_one(tmp_path):
    with WorkdirLock(tmp_path):
        for _ in range(2):
            with pytest.raises(UserError, match=f"in use by process {os.getpid()} on host .*--workdir"):
                WorkdirLock(tmp_path).__enter__()
    process = hold(tmp_path)
    try:
        with pytest.raises(UserError, match=f"{tmp_path} is in use by process {process.pid} on host {platform.node()}"):
            WorkdirLock(tmp_path).__enter__()
        assert owner(tmp_path)["pid"] == process.pid  # the refusal has changed nothing
    finally:
        process.communicate("")
    with WorkdirLock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 60)
    process, said = hold(tmp_path), []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begin = time.monotonic()
    with WorkdirLock(tmp_path, said.append):
        assert owner(tmp_path)["pid"] == os.getpid() and time.monotonic() - begin < 5
    (line,) = said
    assert f"process {process.pid}" in line and "taken over" in line and "\n" not in line


def test_a_stopped_process_still_holds_its_lock(tmp_path):
    process = hold(tmp_path)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UserError, match="is in use"):
            WorkdirLock(tmp_path).__enter__()
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate("")


def pretend(workdir: Path, **changes: object) -> Path:
    """A lock file that another host wrote."""
    path = workdir / "run.lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "2026-01-01 00:00:00"} | changes))
    return path


def test_another_host_that_is_heard_of_keeps_its_lock(tmp_path):
    path, ended = pretend(tmp_path), threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"in use by process 7 on host elsewhere \(since 2026-01-01 00:00:00\)"):
            WorkdirLock(tmp_path, lambda line: None).__enter__()
    finally:
        ended.set()
        thread.join()
    assert owner(tmp_path)["host"] == "elsewhere"


@pytest.mark.parametrize("still_locked", [False, True], ids=["lock lost", "lock kept by the file system"])
def test_another_host_that_is_silent_loses_it(still_locked, tmp_path):
    path, said = pretend(tmp_path), []
    with path.open() as file:
        if still_locked:
            assert lock._lock(file.fileno())
        with WorkdirLock(tmp_path, said.append):
            assert owner(tmp_path)["pid"] == os.getpid()
            with pytest.raises(UserError, match="is in use"):
                WorkdirLock(tmp_path).__enter__()
    assert ["waiting 0.5 s for a sign of life" in line for line in said] == [True, False]
    assert "taken over" in said[1] and "elsewhere" in said[1] and not path.exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """The owner is known by its touches alone."""
    monkeypatch.setattr(lock, "_lock", lambda file: None)
    with WorkdirLock(tmp_path), pytest.raises(UserError, match="is in use"):
        WorkdirLock(tmp_path, lambda line: None).__enter__()
    pretend(tmp_path, host=platform.node())
    with WorkdirLock(tmp_path, lambda line: None):
        assert owner(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_a_file_that_names_nobody(text, tmp_path):
    (tmp_path / "run.lock").write_bytes(text.encode("utf-8", "surrogateescape"))
    with WorkdirLock(tmp_path), pytest.raises(UserError, match="is in use"):
        WorkdirLock(tmp_path).__enter__()


def test_a_lock_that_was_taken_away_is_not_removed(tmp_path):
    with WorkdirLock(tmp_path):
        (tmp_path / "run.lock").unlink()
        pretend(tmp_path)
    assert owner(tmp_path)["host"] == "elsewhere"


def test_what_cannot_be_a_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in (("file", "is a file; choose a folder"), ("file/run", "cannot be written: Not a directory")):
        with pytest.raises(UserError, match=words):
            WorkdirLock(tmp_path / path).__enter__()
    with pytest.raises(UserError, match="/proc/nothing cannot be written"):
        WorkdirLock(Path("/proc/nothing")).__enter__()
