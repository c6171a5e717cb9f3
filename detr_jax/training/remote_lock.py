"""The lock of a workdir at a URL: a file there that its owner writes again every few seconds.

No storage is asked for more than to keep a file, so two runs that begin within the same two seconds are told apart by
whose file is there afterwards.
"""

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from detr_jax import hosts
from detr_jax.remote import RemoteError, RemoteFolder
from detr_jax.training.lock import describe_owner, in_use, this_process

LOCK = "run.lock"
BEAT = 10.0  # seconds between two signs of life
PATIENCE = 35.0  # seconds without one after which the owner counts as gone
SETTLED = 2.0  # seconds after which a storage shows everybody the same file


class RemoteLock:
    """Held while a run lasts; a context manager. With several hosts the first one holds it for all.

    Raises UserError, on every host, when another run holds it, or when the storage cannot be read or written.
    """

    def __init__(self, remote: RemoteFolder, say: Callable[[str], None] = print):
        self._remote, self._say = remote, say
        self._owner, self._beats = this_process(), 0
        self._ended, self._fault = threading.Event(), None

    def __enter__(self) -> "RemoteLock":
        hosts.from_first_host(self._acquire)
        if jax.process_index() == 0:
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return self

    def __exit__(self, *_) -> None:
        if jax.process_index():
            return
        self._ended.set()
        self._beating.join(BEAT)
        with contextlib.suppress(RemoteError):
            if self._is_ours(self._read()):
                self._remote.remove(LOCK)

    def check(self) -> None:
        """Raises UserError when another run has taken the lock over."""
        if self._fault is not None:
            raise self._fault

    def _acquire(self) -> None:
        found = self._read()
        if found and not _has_died_here(found):
            self._wait_for_sign(found)
        if found:
            self._say(f"the run of {describe_owner(found)} is gone; its lock is taken over")
        self._write()
        time.sleep(SETTLED)
        if not self._is_ours(now := self._read()):
            raise in_use(self._remote.url, now)

    def _wait_for_sign(self, found: dict[str, Any]) -> None:
        """Returns when the owner gives none. Raises UserError when it does."""
        self._say(f"{self._remote.url} is locked by {describe_owner(found)}; waiting {PATIENCE:g} s for a sign of life")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(PATIENCE / 30)
            now = self._read()
            if not now:  # its run has ended
                return
            if now != found:
                raise in_use(self._remote.url, now)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(RemoteError):  # whoever copies into the workdir says what is wrong
                owner = self._read()
                if owner and not self._is_ours(owner):
                    self._fault = in_use(self._remote.url, owner)
                    return
                self._write()

    def _read(self) -> dict[str, Any]:
        try:
            owner = json.loads(self._remote.read(LOCK) or b"{}")
        except ValueError:  # half written: some storages show that
            owner = None
        return owner if isinstance(owner, dict) else {"host": "an unknown host"}

    def _write(self) -> None:
        self._beats += 1
        self._remote.write(LOCK, json.dumps({**self._owner, "beat": self._beats}).encode())

    def _is_ours(self, owner: dict[str, Any]) -> bool:
        """Whether this process wrote it: any beat, for the storage may have refused the last one."""
        return {**owner, "beat": None} == {**self._owner, "beat": None}


def _has_died_here(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    pid = owner.get("pid")
    if owner.get("host") != platform.node() or not isinstance(pid, int):
        return False
    if pid == os.getpid():  # an earlier one of this number: in a container the first process always has the same
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False
