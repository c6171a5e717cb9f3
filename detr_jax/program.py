"""How every program of the package starts and how it speaks to its user when something is wrong.

A user's mistake is raised as ``UserError`` with one sentence: what was seen, what to type. ``run`` prints that
sentence and exits with status 1; the traceback is for ``--debug``.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict

flags.DEFINE_bool("debug", False, "Show the full traceback of a user's mistake.")


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says how."""


def settings() -> dict:
    """What --config and its overrides give, as plain values. Raises UserError when the file could not be read."""
    try:
        return plain(flags.FLAGS.config)
    except OSError as error:  # ml_collections remembers the failure until the flag is looked at
        raise UserError(f"--config cannot be read: {str(error).splitlines()[-1].strip()}") from error


def plain(config: ConfigDict) -> dict:
    """A configuration as JSON would give it back (lists for tuples), so that it compares equal after a checkpoint."""

    def listed(value):
        return [listed(item) for item in value] if isinstance(value, tuple | list) else value

    return {key: plain(value) if isinstance(value, ConfigDict) else listed(value) for key, value in config.items()}


def _parse(argv: list[str]) -> list[str]:
    """absl's own parsing; what a configuration file objects to is one sentence as well."""
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # a configuration file is a program: anything may go wrong in it
        if "--debug" in argv:
            raise
        message = str(error.args[0]) if error.args else str(error)
    # What absl reports of an error in a configuration file ends with that error's own words.
    message = message.rpartition("Error: ")[2].replace("\\n", " ").replace("\\'", "'").strip()
    if message[:1] in "'\"" and message[:1] == message[-1:]:
        message = message[1:-1]
    where = "" if message.startswith("flag ") or "--" in message else "--config: "
    print(f"error: {where}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def keep_memory() -> None:
    """Lets the process keep what it frees, in large pages, where the C library is glibc.

    XLA on a CPU asks for all temporary memory of a program anew in every call, a gigabyte or more, and by default glibc
    fetches and returns it page by page: a tenth of a training step, more on a busy machine. The heaps of threads are
    returned whatever the threshold says, so there is one heap for all. Pages of 4 KB cost another tenth.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    mmap_max, trim_threshold, arena_max = -4, -1, -8  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX of malloc.h
    for parameter, value in ((mmap_max, 0), (trim_threshold, -1), (arena_max, 1)):
        libc.mallopt(parameter, value)
    _enlarge_pages(libc)


def _enlarge_pages(libc: ctypes.CDLL) -> None:
    """The heap grows once by half of the memory, marked for pages of 2 MB, and is free again: glibc now keeps it.

    None of it is used before it is written to. Where so much is refused, pages stay small.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)  # negative: no limit
    half, page, madv_hugepage = (memory if allowed < 0 else min(memory, allowed)) // 2, 2 << 20, 14
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    if half > page and (block := libc.malloc(half)):
        libc.madvise(-(-block // page) * page, half - page, madv_hugepage)
        libc.free(block)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, runs ``main(argv)`` and exits with its status (None is 0)."""

    def guarded(argv: list[str]) -> int | None:
        keep_memory()
        logging.set_verbosity(logging.ERROR)  # programs print; libraries speak only when something is wrong
        try:
            return main(argv)
        except UserError as error:
            if flags.FLAGS.debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded, flags_parser=_parse)
