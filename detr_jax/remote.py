"""Folders at a URL: ``gs://``, ``s3://`` and whatever else fsspec knows.

Such a storage lists, reads, writes and removes whole files. Nothing here renames or appends, for many cannot.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec

from detr_jax import files
from detr_jax.errors import UserError


class RemoteError(UserError):
    """The storage did not do what it was asked to; it may do so later."""


def is_remote(path: str | os.PathLike) -> bool:
    """Whether this is a URL and not a path of this machine."""
    return "://" in os.fspath(path)


def local_place(kind: str, url: str) -> Path:
    """The folder of this machine in which copies of the files at ``url`` are kept."""
    return files.cache_folder() / kind / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


class RemoteFolder:
    """One folder at a URL. Every method raises RemoteError when the storage fails.

    Raises UserError when nothing that is installed can read such a URL.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        try:
            with _explain(self.url, "open"):
                self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except RemoteError as error:
            missing = isinstance(error.__cause__, ImportError | ValueError)  # in fsspec's words: what to install
            raise UserError(str(error)) if missing else error from error.__cause__

    def list(self, folder: str = "") -> dict[str, int]:
        """The files in ``folder`` and below: name from this folder on -> bytes."""
        with _explain(self.url, "list"):
            self._fs.invalidate_cache()
            start = len(self._fs._strip_protocol(self._root).rstrip("/")) + 1
            return {path[start:]: size for path, size in self._walk(self._place(folder)) if path[start:]}

    def _walk(self, place: str) -> Iterator[tuple[str, int]]:
        """Every file: its path and bytes. Not fsspec's own ``find``, which takes a failing storage for an empty one."""
        try:
            entries = self._fs.ls(place, detail=True)
        except FileNotFoundError:
            entries = []
        for entry in entries:
            path = entry["name"].rstrip("/")
            if entry["type"] != "directory":
                yield path, int(entry["size"])
            elif path != self._fs._strip_protocol(place).rstrip("/"):
                yield from self._walk(path)

    def is_file(self) -> bool:
        """Whether the URL is that of a file."""
        with _explain(self.url, "read"), contextlib.suppress(FileNotFoundError):
            return self._fs.info(self._root)["type"] == "file"
        return False

    def read(self, name: str) -> bytes | None:
        """The content of a file; None when it does not exist."""
        with _explain(self.url, "read"), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            return self._fs.cat_file(self._place(name))
        return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, in place of the one of that name."""
        with _explain(self.url, "write"):
            self._fs.makedirs(self._fs._parent(self._place(name)), exist_ok=True)
            self._fs.pipe_file(self._place(name), data)

    def upload(self, path: Path, name: str) -> None:
        """Copies a file there. Raises FileNotFoundError when ``path`` has gone."""
        try:
            with _explain(self.url, "write"):
                self._fs.makedirs(self._fs._parent(self._place(name)), exist_ok=True)
                self._fs.put_file(str(path), self._place(name))
        except RemoteError as error:
            if not path.exists():
                raise FileNotFoundError(path) from error
            raise

    def download(self, name: str, path: Path) -> None:
        """Copies a file from there; ``path`` is whole or not there."""
        with files.replacing(path) as sibling, _explain(self.url, "read"):
            self._fs.get_file(self._place(name), str(sibling))

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with _explain(self.url, "write"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(name))

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root


@contextlib.contextmanager
def _explain(url: str, verb: str) -> Iterator[None]:
    """Whatever a storage raises becomes one sentence. (Every one has errors of its own.)"""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RemoteError(f"cannot {verb} {url} ({reason})") from error
