"""Signals that ask a program to stop: SIGTERM, Ctrl-C, SIGHUP, and SIGUSR1, which Slurm sends before a time limit.

The first one is obeyed where nothing is lost by it, a second one at once. Python runs a signal's handler only between
two of its own instructions, and a compilation is a single one that may take minutes; so a thread watches, too.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

NUMBERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
GRACE = 4.0  # seconds in which the main thread should leave what can be done again
TICK = 0.25  # seconds between two looks


class Interrupted(BaseException):
    """Raised in the main thread by the first signal while it waits for what can be done again."""


def die_in_one_line() -> None:
    """Makes a signal end the program at once, with one line in place of a traceback; meant for its imports."""
    for number in NUMBERS:
        signal.signal(number, lambda number, frame: leave(*stopped_by(number)))


def stopped_by(number: int) -> tuple[int, str]:
    """The status of a program that a signal ended, as shells count it, and the line that says so."""
    return 128 + number, f"stopped by {signal.Signals(number).name}"


def leave(status: int, line: str = "") -> NoReturn:
    """Prints the line and ends the process at once, whatever its threads are doing."""
    if line:
        print(line, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


class StopSignals:
    """Notices signals while it is entered; the handlers that were there before come back.

    In a thread other than the main one it notices nothing: there the host program decides.

    Args:
      notify: called by the first signal, in the main thread.
      abandon: called in a thread of its own when the main thread does not leave a ``waiting`` block; it finishes what
        must be finished, and returns the status to end the process with and the line to print.
      at_once: prints a line when the second signal ends the process. The default of both says which signal it was.

    Attributes:
      received: the number of the first signal; 0 before it.
    """

    def __init__(
        self,
        notify: Callable[[], object] = lambda: None,
        abandon: Callable[[], tuple[int, str]] | None = None,
        at_once: Callable[[], object] | None = None,
    ):
        self.received = 0
        self._notify = notify
        self._abandon = abandon or (lambda: stopped_by(self.received))
        self._at_once = at_once or (lambda: print(stopped_by(self.received)[1], file=sys.stderr))
        self._noticed = self._waiting = self._raises = self._raised = False

    def __enter__(self) -> "StopSignals":
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._reading, self._writing = socket.socketpair()
            self._writing.setblocking(False)
            self._reading.settimeout(TICK)
            self._previous = {number: signal.signal(number, self._notice) for number in NUMBERS}
            self._previous_fd = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if self._previous is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was set by native code
        self._writing.close()  # ends the thread

    @contextlib.contextmanager
    def waiting(self, raises: bool = True) -> Iterator[None]:
        """A block that can be left at any point without loss. The first signal raises Interrupted in it.

        It leaves the block whatever is made of it on the way: libraries swallow what is raised in a callback, or raise
        an error of their own in its place.

        Args:
          raises: False leaves the block only by ``abandon``, when the grace is over: for several processes, of which
            one must not go its own way.
        """
        if self.received and raises:
            raise Interrupted
        before = self._waiting, self._raises
        self._waiting, self._raises = True, raises
        try:
            yield
        except Exception as error:
            if raises and self._raised:
                raise Interrupted from error
            raise
        else:
            if raises and self._raised:
                raise Interrupted
        finally:
            self._waiting, self._raises = before
            self._raised = self._raised and not raises  # it has left its block: what follows is not interrupted again

    def _notice(self, number: int, frame) -> None:
        if not self._noticed:
            self._noticed, self.received = True, self.received or number
            self._notify()
        if self._raises:
            self._raises, self._raised = False, True  # once: what cleans up on the way must not be interrupted
            raise Interrupted

    def _watch(self) -> None:
        """Counts signals as they arrive, whatever the main thread is doing."""
        count, since = 0, time.monotonic()
        while True:
            try:
                numbers = self._reading.recv(16)
            except TimeoutError:
                numbers = b""
            else:
                if not numbers:
                    return self._reading.close()
            for number in (number for number in numbers if number in NUMBERS):
                count, self.received = count + 1, self.received or number  # the main thread may be stuck
                if count > 1:
                    with contextlib.suppress(Exception):
                        self._at_once()
                    leave(128 + number)
            if not (count and self._waiting):
                since = time.monotonic()  # the grace begins with the waiting
            elif time.monotonic() - since > GRACE:
                try:
                    ending = self._abandon()
                except Exception as error:
                    ending = 1, f"error: {' '.join(str(error).split())[:300]}"
                leave(*ending)
