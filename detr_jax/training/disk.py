"""A workdir that cannot be written any more: full, over quota, read-only, removed."""

import contextlib
import errno
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from detr_jax.errors import UserError

ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EIO: "see what the disk says (dmesg)",
    errno.ESTALE: "mount it again",
    errno.ENOENT: "it was removed or moved: put it back",
    errno.ENOTDIR: "something else took its place: put it back",
}
GONE = "NOT_FOUND: Error writing", "No ArrayMetadata found"  # in the words of the storage and of orbax


@contextlib.contextmanager
def explain_disk_faults(workdir: Path) -> Iterator[None]:
    """Raises UserError in place of whatever a failed write became: of Python, of orbax, of its storage."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _find_number(error, workdir.absolute())
        if number is None:
            raise
        raise UserError(
            f"cannot write into {workdir} ({os.strerror(number)}); {ADVICE[number]}, then the same command goes on "
            "from the last checkpoint"
        ) from error


def _find_number(error: BaseException | None, workdir: Path) -> int | None:
    """The number of the system's error behind this one, if it is one of a disk, and of that folder."""
    folder = str(workdir)
    if _is_of_a_save(error) and not (workdir / "config.json").exists():  # whatever orbax made of what it missed
        return errno.ENOENT
    while error is not None:
        if isinstance(error, OSError) and error.errno in ADVICE:
            name = error.filename  # a write into an open file has none
            return error.errno if name is None or os.fspath(name).startswith(folder) else None
        if folder in str(error):  # native code only passes on the system's words
            for number in ADVICE:
                if os.strerror(number) in str(error):
                    return number
            if not workdir.exists() or any(words in str(error) for words in GONE):
                return errno.ENOENT
        error = error.__cause__ or error.__context__
    return None


def _is_of_a_save(error: BaseException | None) -> bool:
    """Whether an error passed through orbax."""
    return error is not None and any(
        f"{os.sep}orbax{os.sep}" in frame.filename for frame in traceback.extract_tb(error.__traceback__)
    )
