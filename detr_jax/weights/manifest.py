"""The digests of a checkpoint's files, by which damage is noticed: orbax restores a flipped bit without noticing."""

import hashlib
import json
from pathlib import Path

CHECKSUMS = "checksums.json"
WRITTEN_AT_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")  # by orbax, after the digests; nothing is in them


def write_manifest(folder: Path) -> None:
    """Writes the digest of every file of a checkpoint, which is complete but for the commit."""
    digests = {name: _digest(path) for name, path in _files(folder).items()}
    (folder / CHECKSUMS).write_text(json.dumps(digests), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, in a few words; None when its files are exactly those that were written."""
    try:
        wanted = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"{CHECKSUMS} is missing or unreadable"
    if not isinstance(wanted, dict) or not wanted:
        return f"{CHECKSUMS} does not hold checksums"
    found = _files(folder)
    for name in wanted.keys() - found.keys():
        return f"{name} is missing"
    for name in found.keys() - wanted.keys():
        return f"{name} is not in {CHECKSUMS}"
    for name, path in found.items():
        try:
            if _digest(path) != wanted[name]:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _files(folder: Path) -> dict[str, Path]:
    """The files that the digests are of, by their path in the checkpoint, in order."""
    apart = {folder / name for name in (CHECKSUMS, *WRITTEN_AT_COMMIT)}
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir() and path not in apart)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
