"""A storage of objects on this disk, for fsspec: ``store:///FOLDER/run``.

It lists, reads, writes and removes whole files. It has no folders of its own, no rename, no copy and no append; and
while FOLDER/offline exists it fails. ``import tests.object_store`` makes it known.
"""

import io
import os
from pathlib import Path

import fsspec
from fsspec.spec import AbstractFileSystem


class ObjectStore(AbstractFileSystem):
    protocol = "store"
    cachable = False

    def _file(self, path: str) -> Path:
        file = Path(self._strip_protocol(path))
        for folder in file.parents:
            if (folder / "offline").exists():
                raise ConnectionError("the storage is offline")
        return file

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("store://").strip("/")

    def ls(self, path, detail=True, **_):
        file = self._file(path)
        if file.is_file():
            return [self.info(path)] if detail else [str(file)]
        entries = []
        for child in sorted(file.iterdir()) if file.is_dir() else ():
            if any(child.rglob("*")) or child.is_file():  # a folder is there as long as something is in it
                kind = "directory" if child.is_dir() else "file"
                entries.append({"name": str(child), "size": child.stat().st_size, "type": kind})
        if not entries:
            raise FileNotFoundError(path)
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path, **_):
        file = self._file(path)
        if file.is_file():
            return {"name": str(file), "size": file.stat().st_size, "type": "file"}
        if file.is_dir() and any(file.rglob("*")):
            return {"name": str(file), "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def makedirs(self, path, exist_ok=False):
        pass

    def rm_file(self, path):
        self._file(path).unlink()

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            return io.BytesIO(self._file(path).read_bytes())
        assert mode == "wb", f"mode {mode}"
        return _Object(self._file(path))

    def _refuse(self, *_, **__):
        raise NotImplementedError("this storage only lists, reads, writes and removes whole files")

    mv = mv_file = rename = move = cp_file = copy = touch = mkdir = rmdir = _refuse


class _Object(io.BytesIO):
    """Appears when it is whole."""

    def __init__(self, file: Path):
        super().__init__()
        self._place = file

    def close(self) -> None:
        if not self.closed:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            sibling = self._place.with_name(f"{self._place.name}.{os.getpid()}.upload")
            sibling.write_bytes(self.getvalue())
            sibling.replace(self._place)
        super().close()


fsspec.register_implementation("store", ObjectStore, clobber=True)
