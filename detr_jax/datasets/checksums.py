"""The checksums of a prepared dataset: what every file must be, and how it is made again when it is not.

``checksums.json`` holds size and SHA-256 of every other file. When a split is opened, all its files must be there with
their size; small ones are read and compared, once in a process. Shards beyond ``READ_AT_ONCE`` are compared by
``dataset check`` only: their format has checksums of its own for every record, which reading verifies.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detr_jax.errors import UserError

CHECKSUMS = "checksums.json"
READ_AT_ONCE = 256 << 20  # bytes of shards that are compared when a split is opened: about half a second
_compared: set[tuple[str, int, int, str]] = set()  # files of this process: path, size, time of change, digest


class Checksums(NamedTuple):
    """What the files of a prepared dataset must be."""

    folder: Path
    files: dict[str, dict]  # by name: {"bytes": ..., "sha256": ...}
    command: str  # makes the dataset again

    def complain(self, what: str) -> UserError:
        """The error that says what is wrong with the dataset, and how it is made again."""
        return UserError(f"{what} in {self.folder}: make the dataset again with {self.command}")

    def find_damage(self, name: str, whole: bool = True) -> str | None:
        """What is wrong with one file; None if nothing is.

        Args:
          whole: compare the content too, not only the size.
        """
        path, wanted = self.folder / name, self.files.get(name)
        if wanted is None:
            return f"{name} has no checksum"
        try:
            status = path.stat()
            if status.st_size != wanted["bytes"]:
                return f"{name} has {status.st_size:,} bytes instead of {wanted['bytes']:,}"
            key = (os.fspath(path), status.st_size, status.st_mtime_ns, wanted["sha256"])
            if whole and key not in _compared:
                if file_digest(path) != wanted["sha256"]:
                    return f"{name} was changed or damaged (its checksum differs)"
                _compared.add(key)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None

    def verify(self, names: Iterable[str], whole: bool = True) -> None:
        """Raises UserError for the first of these files that is not what it must be."""
        for name in names:
            damage = self.find_damage(name, whole)
            if damage:
                raise self.complain(damage)

    def verify_split(self, split: str) -> None:
        """Raises UserError when files of a split are not what they must be. Its shards are for ``find_bad_shard``."""
        self.verify(["features.json", "dataset_info.json", "categories.json", f"index_{split}.npz"])
        self.verify([f"annotations_{split}.json"], whole=False)  # compared completely when it is read

    def find_bad_shard(self, shards: list[str]) -> tuple[int, str] | None:
        """The number of the first shard that is not what it must be, and what is wrong with it; None if all are."""
        whole = sum(self.files.get(name, {"bytes": 0})["bytes"] for name in shards) <= READ_AT_ONCE
        for number, name in enumerate(shards):
            damage = self.find_damage(name, whole)
            if damage:
                return number, damage
        return None


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, command: str, known: Mapping[str, str]) -> None:
    """Writes ``checksums.json`` for all files of a folder.

    Args:
      command: makes the dataset again.
      known: digests by name, of files that need not be read again.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": known.get(path.name) or file_digest(path)}
        for path in sorted(folder.iterdir())
    }
    text = json.dumps({"command": command, "files": files}, indent=1, ensure_ascii=False)
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def read_checksums(folder: Path, otherwise: str) -> Checksums:
    """Reads ``checksums.json``.

    Raises UserError, which names the command ``otherwise``, when there is none, or when it is damaged.
    """
    try:
        content = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        checksums = Checksums(folder, content["files"], content["command"])
        if _is_sound(checksums):
            return checksums
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{CHECKSUMS} is missing or damaged in {folder}: make the dataset again with {otherwise}")


def _is_sound(checksums: Checksums) -> bool:
    def is_row(row: Any) -> bool:
        return isinstance(row, dict) and isinstance(row.get("bytes"), int) and isinstance(row.get("sha256"), str)

    return isinstance(checksums.command, str) and all(is_row(row) for row in checksums.files.values())
