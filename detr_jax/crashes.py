"""A crash of native code becomes one sentence; its page of addresses goes into a file.

JAX ends the process from C++ when another process is lost or memory is refused: it prints to the file descriptor of
standard error and aborts. So native code writes into a file, which is passed on a moment later; when the process
aborts, what has not been passed on yet is the crash.
"""

import contextlib
import ctypes
import faulthandler
import io
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from detr_jax import signals
from detr_jax.errors import UserError

DELAY = 1.0  # seconds until native messages are passed on
LOST = re.compile(
    r"(?:tasks are unhealthy \(stopped sending heartbeats\):\s*|Task (?=\d+ heartbeat timeout))([\d, \n]+)"
)
FIRST = re.compile(r"Failed to send RPC to coordination service|Socket closed")  # which process 0 runs
PEER = re.compile(
    r"distributed service|coordination service|Gloo|NCCL|collective operation|[Cc]onnection (closed|reset) by peer"
)
MEMORY = re.compile(
    r"bad_alloc|pthread_create\(\) failed|mmap (error|failed)|out of memory|RESOURCE_EXHAUSTED|cannot allocate memory",
    re.IGNORECASE,
)
NOISE = re.compile(  # what this package says itself, in words for its users, or what is no fault
    rb"preemption_notifier\.cc|\[Gloo\] Rank \d+ is connected|[Vv]ery slow compile\?|^\*+$|slow_operation_alarm\.cc"
)
NAMING_SECONDS = 22.0  # in which JAX's service finds out which process is lost, and ends this one
PEER_ADVICE = (
    "see what that process printed; when all have ended, run the same command on every host: it goes on from the last "
    "checkpoint"
)
_after_loss: Callable[[], int | None] | None = None


@contextlib.contextmanager
def after_loss(ending: Callable[[], int | None]) -> Iterator[None]:
    """In this block ``ending()`` is asked when another process is lost: a status ends this one with it, None fails.

    For a run that is asked to stop: whoever leaves first is lost to the others, and nothing is wrong.
    """
    global _after_loss
    before, _after_loss = _after_loss, ending
    try:
        yield
    finally:
        _after_loss = before


def _end_after_loss(text: str) -> None:
    """Ends the process if this tells of a lost one and ``after_loss`` has a status for that."""
    lost = any(pattern.search(text) for pattern in (LOST, FIRST, PEER))
    if lost and _after_loss and (status := _after_loss()) is not None:
        signals.leave(status)


def explain(text: str) -> str:
    """What happened, in one sentence, from what native code said of it."""
    lost = LOST.search(text)
    if lost or FIRST.search(text):
        numbers = ", ".join(lost[1].replace(",", " ").split()) if lost else "0"
        return f"lost contact with process {numbers} of this run; {PEER_ADVICE}"
    if MEMORY.search(text):
        return (
            "the memory of this machine is exhausted; lower data.threads or train.batch_size, or set "
            "train.accum_steps=2 (or 4, 8)"
        )
    if PEER.search(text):
        return f"lost contact with another process of this run; {PEER_ADVICE}"
    return "native code crashed; run it again, and report it with that file if it happens twice"


@contextlib.contextmanager
def explain_lost_process() -> Iterator[None]:
    """Raises UserError in place of the error of a collective operation whose other side is gone."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # as JAX raises them
        if not PEER.search(str(error)):
            raise
        _end_after_loss(str(error))
        time.sleep(NAMING_SECONDS)
        raise UserError(explain(str(error))) from error


class NativeMessages:
    """What native code says of this process, between ``__enter__`` and ``__exit__``."""

    def __init__(self) -> None:
        self._passed_on, self._lock, self._ended = 0, threading.Lock(), threading.Event()

    def __enter__(self) -> "NativeMessages":
        sys.stderr.flush()
        self._file = tempfile.TemporaryFile()
        self._terminal, self._stream = os.dup(2), sys.stderr
        os.dup2(self._file.fileno(), 2)
        if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr.fileno() == 2:  # else it goes elsewhere already
            sys.stderr = os.fdopen(os.dup(self._terminal), "w", buffering=1, errors="backslashreplace")
        self._hook, sys.unraisablehook = sys.unraisablehook, self._report
        faulthandler.enable(file=self._terminal)
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)  # kept: C has only its address
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)  # instead of faulthandler's
        threading.Thread(target=self._relay, name="native messages", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        os.dup2(self._terminal, 2)
        sys.stderr, sys.unraisablehook = self._stream, self._hook
        faulthandler.enable()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        self._pass_on(self._size())

    def _report(self, unraisable) -> None:
        """Says what nobody can catch, but not what threads of the storage say for each array of a save that failed."""
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _pass_on(self, end: int) -> None:
        with self._lock, contextlib.suppress(OSError):
            text = os.pread(self._file.fileno(), end - self._passed_on, self._passed_on)
            self._passed_on = end
            os.write(
                self._terminal, b"".join(line for line in text.splitlines(keepends=True) if not NOISE.search(line))
            )

    def _relay(self) -> None:
        before = 0
        while not self._ended.wait(DELAY):
            self._pass_on(before)
            before = self._size()

    def _aborted(self, number: int) -> None:
        """Called by ``abort()``, in whichever thread; never returns."""
        with contextlib.suppress(Exception):
            text = os.pread(self._file.fileno(), 1 << 20, self._passed_on).decode(errors="replace")
            _end_after_loss(text)
            path = Path(tempfile.gettempdir()) / f"crash-{os.getpid()}.txt"
            path.write_text(text, encoding="utf-8")
            with path.open("a", encoding="utf-8") as file:
                faulthandler.dump_traceback(file)
            os.write(self._terminal, f"error: {explain(text)} (details in {path})\n".encode())
        os._exit(1)
