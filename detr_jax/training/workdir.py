"""Where a run keeps its files: a folder of this machine, or one at a URL."""

import os
from collections.abc import Callable
from pathlib import Path

from detr_jax.remote import is_remote
from detr_jax.training.lock import WorkdirLock
from detr_jax.training.remote_workdir import RemoteWorkdir, local_folder


class LocalWorkdir:
    """A folder, which all hosts see, locked while a run lasts; a context manager.

    Raises UserError, on every host, when another run holds it, or when it cannot be written.
    """

    shared = True

    def __init__(self, folder: Path, say: Callable[[str], None] = print):
        self.name, self.folder = folder, folder
        self._lock = WorkdirLock(folder, say)

    def __enter__(self) -> "LocalWorkdir":
        self._lock.__enter__()
        return self

    def __exit__(self, *ending) -> None:
        self._lock.__exit__(*ending)

    def check(self) -> None:
        """Does nothing: the run writes into the workdir itself, and notices by itself what goes wrong."""

    def settle(self) -> None:
        """Does nothing: what is written is there."""


Workdir = LocalWorkdir | RemoteWorkdir


def open_workdir(workdir: str | os.PathLike, say: Callable[[str], None] = print) -> Workdir:
    """The workdir of that path or URL, to be entered."""
    return RemoteWorkdir(os.fspath(workdir), say) if is_remote(workdir) else LocalWorkdir(_path(workdir), say)


def compilation_cache(workdir: str | os.PathLike) -> Path:
    """Where the compiled programs of a run are kept: in its workdir, so that a restart takes seconds.

    To be called when the processes have found each other.
    """
    return (local_folder(os.fspath(workdir)) if is_remote(workdir) else _path(workdir)).absolute() / "cache"


def _path(workdir: str | os.PathLike) -> Path:
    return Path(workdir).expanduser()
