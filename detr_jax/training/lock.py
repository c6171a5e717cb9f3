"""The lock of a workdir: one run at a time writes into it.

On one host the kernel holds the lock for as long as the process lives, so it is never stale there. Between hosts that
is not certain: some network file systems lock on each host alone, others keep the lock of a host that is gone. So the
owner also touches the file every few seconds, and the lock of another host counts while this goes on.
"""

import contextlib
import datetime
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from detr_jax import hosts
from detr_jax.errors import UserError

BEAT = 5.0  # seconds between two touches
PATIENCE = 30.0  # seconds without one after which an owner on another host counts as gone


class WorkdirLock:
    """Held while a run lasts; a context manager. With several hosts the first one holds it for all.

    ``run.lock`` names the owner: host, pid, time. It goes at the end, with the folders that were made for it if nothing
    else is in them. When the owner is gone the lock is taken over; ``say`` is told.

    Raises UserError, on every host, when another run holds it, or when ``workdir`` cannot be written.
    """

    def __init__(self, workdir: Path, say: Callable[[str], None] = print):
        self._workdir, self._folder = workdir, workdir.absolute()  # as typed, for messages
        self._path = self._folder / "run.lock"
        self._say = say

    def __enter__(self) -> "WorkdirLock":
        hosts.from_first_host(self._acquire)
        return self

    def __exit__(self, *_) -> None:
        if jax.process_index() == 0:
            self._release()

    def _acquire(self) -> None:
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(f"--workdir={self._workdir} is a file; choose a folder")
        self._made = [folder for folder in (self._folder, *self._folder.parents) if not folder.exists()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while (file := self._try_to_hold()) is None:
                pass
            os.truncate(file, 0)
            os.pwrite(file, json.dumps(this_process()).encode(), 0)
        except OSError as error:
            raise UserError(f"--workdir={self._workdir} cannot be written: {error.strerror}") from error
        self._file, self._released = file, threading.Event()
        self._beating = threading.Thread(target=_beat, args=(file, self._released), daemon=True)
        self._beating.start()

    def _release(self) -> None:
        self._released.set()
        self._beating.join(BEAT)
        with contextlib.suppress(OSError):  # the workdir may be gone
            if self._is_current(self._file):
                self._path.unlink()
            for folder in self._made:
                folder.rmdir()
        os.close(self._file)

    def _try_to_hold(self) -> int | None:
        """The open file when it is ours; None when it has gone meanwhile. Raises UserError when the owner lives."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(os.close, file)
            free, owner = _lock(file), _read_owner(file)
            kernel_knows = free is not None and owner.get("host", platform.node()) == platform.node()
            if not free if kernel_knows else owner and self._is_touched(owner):
                raise in_use(self._workdir, owner)
            if not self._is_current(file):
                return None
            if owner:
                self._say(f"the run of {describe_owner(owner)} is gone; its lock {self._path} is taken over")
            if free is False:  # for a host that is gone; another file has another lock
                self._path.unlink()
                return None
            otherwise.pop_all()
        return file

    def _is_current(self, file: int) -> bool:
        """Whether the open file is still the one that others find."""
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _is_touched(self, owner: dict[str, Any]) -> bool:
        """Whether the owner, of whom the kernel knows nothing, gives a sign of life."""
        self._say(f"{self._workdir} is locked by {describe_owner(owner)}; waiting {PATIENCE:g} s for a sign of life")
        before, deadline = self._look(), time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(min(BEAT, PATIENCE) / 5)
            if self._look() != before:
                return self._path.exists()
        return False

    def _look(self) -> tuple[int, int] | None:
        """Which file it is and when it was touched. It is opened, for only then network file systems ask the server."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


def _lock(file: int) -> bool | None:
    """Whether the kernel gives us the lock; None where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _beat(file: int, released: threading.Event) -> None:
    while not released.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)


def _read_owner(file: int) -> dict[str, Any]:
    """What the owner wrote; empty where there is none, or it has not come to it."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def this_process() -> dict[str, Any]:
    """What the lock says of its owner."""
    return {"host": platform.node(), "pid": os.getpid(), "since": f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"}


def in_use(workdir: str | os.PathLike, owner: dict[str, Any]) -> UserError:
    """The error of a second run."""
    return UserError(
        f"{workdir} is in use by {describe_owner(owner)}; wait for its end, or stop it, or choose another --workdir"
    )


def describe_owner(owner: dict[str, Any]) -> str:
    """The owner of a lock, in words."""
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on host {owner.get('host')} (since {owner.get('since')})"
