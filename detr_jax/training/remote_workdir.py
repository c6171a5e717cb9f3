"""A workdir at a URL: the run writes into a local folder, and a thread copies it there as it grows.

So everything that holds for a local workdir holds here, and the storage only has to take whole files. What is there is
the truth: the next start, on whatever machine, begins with a copy of it.

A checkpoint counts once its ``checksums.json`` is there, which is written last, after the log that belongs to it, and
removed first. ``checkpoints/best`` is a file with the number of the step there, and a link here.
"""

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from detr_jax import hosts
from detr_jax.errors import UserError
from detr_jax.remote import RemoteError, RemoteFolder, local_place
from detr_jax.training.remote_lock import LOCK, RemoteLock
from detr_jax.weights.finding import BEST, finished_steps
from detr_jax.weights.manifest import CHECKSUMS

PAUSE = 10.0  # seconds at least between two copies, ...
SHARE = 0.2  # ... which take at most this part of the time
INSIST = 120.0  # seconds in which the last copy is tried again
GIVE_UP = 600.0  # seconds without a successful copy after which the run ends
BEST_LINK = f"checkpoints/{BEST}"


class RemoteWorkdir:
    """Held while a run lasts; a context manager. With several hosts the first one holds and writes it for all.

    Attributes:
      folder: where the run writes. Entering fills it with what is at the URL.
      shared: False: every host has a folder of its own, and that of the first one counts.

    Raises UserError, on every host, when another run holds it, or when the storage cannot be read or written.
    """

    shared = False

    def __init__(self, url: str, say: Callable[[str], None] = print):
        self.name, self._say = url, say
        self.folder = local_folder(url)
        self._first = jax.process_index() == 0
        self._held: contextlib.ExitStack | None = None  # until it is entered

    def __enter__(self) -> "RemoteWorkdir":
        self._remote = RemoteFolder(self.name)
        self._ended, self._copying, self._fault = threading.Event(), threading.Lock(), None
        with contextlib.ExitStack() as stack:
            self._lock = stack.enter_context(RemoteLock(self._remote, self._say))
            self._fetch()
            hosts.wait_for_hosts("the workdir is here")
            self._held = stack.pop_all()
        if self._first:
            threading.Thread(target=self._follow, daemon=True).start()
        return self

    def __exit__(self, kind, ended_by, trace) -> None:
        with self._held:
            try:
                self.settle()
                self._ended.set()
                with self._copying:  # never while the thread copies, which would take the rest for what to remove
                    shutil.rmtree(self.folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # of another process on this machine
                    self.folder.parent.rmdir()
            except UserError as error:
                if kind is None:
                    raise
                self._say(str(error))  # what ended the run says more
            finally:
                self._ended.set()
        if isinstance(ended_by, UserError) and str(self.folder) in str(ended_by):
            raise UserError(str(ended_by).replace(str(self.folder), self.name)) from ended_by

    def check(self) -> None:
        """Raises UserError when another run has taken the workdir over, or when nothing could be copied for long."""
        self._lock.check()
        if self._fault is not None:
            raise self._fault

    def settle(self) -> None:
        """Returns when everything is there; at once before it is entered. Raises UserError when it does not succeed."""
        if not self._first or self._held is None:
            return None
        deadline = time.monotonic() + INSIST
        while True:
            self.check()
            try:
                return self._copy()
            except RemoteError as error:
                if time.monotonic() > deadline:
                    raise UserError(self._describe(error)) from error
                time.sleep(1.0)

    def _describe(self, error: RemoteError) -> str:
        return (
            f"{error}; what is not there yet is in {self.folder} of {platform.node()}, and the same command on that "
            "machine copies it and goes on"
        )

    def _fetch(self) -> None:
        """Fills the local folder. What an earlier start here could not copy any more is copied first."""
        self._sent: dict[str, tuple[int, int]] = {}
        there = self._remote.list()
        if self._first and _newest(_finished(_stamps(self.folder))) > _newest(_finished(there)):
            self._say(f"copying what is only in {self.folder} to {self.name}")
            with contextlib.suppress(FileNotFoundError):
                self._copy_all(there)
            there = self._remote.list()
        shutil.rmtree(self.folder, ignore_errors=True)
        finished = {str(step) for step in _finished(there)}
        for name in sorted(there, key=_rank):
            step = name.split("/")[1] if name.startswith("checkpoints/") else ""
            if step.isdigit() and step not in finished:
                if self._first:
                    self._remote.remove(name)  # of a checkpoint that was copied or removed halfway
            elif name == BEST_LINK:
                self.folder.joinpath(BEST_LINK).parent.mkdir(parents=True, exist_ok=True)
                self.folder.joinpath(BEST_LINK).symlink_to((self._remote.read(name) or b"").decode().strip() or "none")
            elif name != LOCK and (self._first or step):
                self._remote.download(name, self.folder / name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sent = {name: stamp for name, stamp in _stamps(self.folder).items() if name in there}

    def _follow(self) -> None:
        """Copies what changes, until the end."""
        said, good = False, time.monotonic()
        pause = PAUSE
        while not self._ended.wait(pause):
            begin = time.monotonic()
            try:
                self._copy()
            except RemoteError as error:
                if not said:
                    said = True
                    self._say(f"{error}; the run goes on, and it is tried again")
                if time.monotonic() - good > GIVE_UP:
                    self._fault = UserError(self._describe(error))
            else:
                if said:
                    self._say(f"{self.name} is written again")
                said, good = False, time.monotonic()
            pause = max(PAUSE, (time.monotonic() - begin) / SHARE)

    def _copy(self) -> None:
        with self._copying:
            if not self._ended.is_set():
                self._copy_all(self._sent)

    def _copy_all(self, there: Iterable[str]) -> None:
        """Copies what has changed, and removes the checkpoints of ``there`` that are here no more."""
        now = _stamps(self.folder)  # before any file is read: the log is at least as long as the checkpoints need
        for name in sorted(now, key=_rank):
            if self._sent.get(name) != now[name]:
                path = self.folder / name
                try:
                    if path.is_symlink():
                        self._remote.write(name, os.readlink(path).encode())
                    else:
                        self._remote.upload(path, name)
                except FileNotFoundError:  # an old checkpoint has just gone
                    continue
                self._sent[name] = now[name]
        for name in sorted(_superseded(there, now), key=_rank, reverse=True):
            self._remote.remove(name)
            self._sent.pop(name, None)


def local_folder(url: str) -> Path:
    """Where this process writes what goes to a workdir at ``url``."""
    return local_place("workdirs", url) / str(jax.process_index())


def _rank(name: str) -> tuple[int, str]:
    """The order of copies: what the others need comes before them."""
    if not name.startswith("checkpoints/"):
        return 0, name
    return 3 if name == BEST_LINK else 2 if name.endswith(f"/{CHECKSUMS}") else 1, name


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """The files to copy, with what changes when they do: their size and time."""
    found = {}
    for root, folders, names in os.walk(folder):
        if Path(root) == folder / "checkpoints":  # what is being written there is not one yet
            names = [name for name in [*names, *folders] if name == BEST]
            folders[:] = [name for name in folders if ".orbax-checkpoint-tmp" not in name]
        for name in names:
            path = Path(root, name)
            if ".partial" not in name and not name.endswith("-atime"):  # half a file; JAX's note of a use
                with contextlib.suppress(FileNotFoundError):
                    stat = path.lstat()
                    found[path.relative_to(folder).as_posix()] = stat.st_size, stat.st_mtime_ns
    return found


def _finished(names: Iterable[str]) -> list[int]:
    """The steps of the checkpoints that are whole."""
    return finished_steps(name.removeprefix("checkpoints/") for name in names if name.startswith("checkpoints/"))


def _superseded(there: Iterable[str], here: Iterable[str]) -> list[str]:
    """The files there of checkpoints that the run has removed or set aside: there are newer ones, or it says damaged.

    What is missing in another way was taken by somebody else, who shall not take it there as well.
    """
    parts = {name.split("/")[1] for name in here if name.startswith("checkpoints/")}
    newest = _newest(_finished(here))
    aside = {part.removeprefix("damaged-").partition(".")[0] for part in parts if part.startswith("damaged-")}

    def is_superseded(name: str) -> bool:
        step = name.split("/")[1] if name.startswith("checkpoints/") else ""
        return step.isdigit() and step not in parts and (int(step) < newest or step in aside)

    return [name for name in there if is_superseded(name)]


def _newest(found: Iterable[int]) -> int:
    return max(found, default=0)
