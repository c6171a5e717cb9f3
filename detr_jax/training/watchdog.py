"""Ends a run that hangs: it says where, and a scheduler can start it again instead of paying for nothing."""

import contextlib
import faulthandler
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

from detr_jax import signals
from detr_jax.errors import UserError

STATUS = 75  # EX_TEMPFAIL: to be tried again
LEAST_MINUTES = 5.0
TIMES_MEDIAN = 20.0
SETTLING_SECONDS = 20.0  # for what is copied elsewhere before the end
ENOUGH, REMEMBERED = 5, 100  # durations of one kind before its limit is learned, and of which the median is taken


class Watchdog:
    """While it is entered, something must be over in its time: a step, a batch, a compilation, an evaluation, a save.

    How long each kind takes is learned: its limit is 20 times the median, and at least 5 minutes. What has been seen
    fewer than five times has ``minutes``.

    Args:
      minutes: the limit of what is not known yet; with less than 5 also the least one. 0 never ends a run.
      folder: where the file with the stacks of all threads is written.
      say: gets a line before the end.
      settle: copies what is in the folder to where it belongs; called after that line, with limited patience.
    """

    def __init__(
        self,
        minutes: float,
        folder: Path,
        say: Callable[[str], None] = print,
        settle: Callable[[], None] = lambda: None,
    ):
        self.say, self._settle = say, settle
        self._minutes, self._folder = minutes, folder
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._awaited = "the start", time.monotonic()  # what, since when: replaced as one by ``expect``
        self._ended = threading.Event()

    def __enter__(self) -> "Watchdog":
        self._awaited = "the start", time.monotonic()
        if self._minutes > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()

    def expect(self, what: str) -> None:
        """What was awaited until now is over; from now on it is ``what``, such as "a step"."""
        now, (before, since) = time.monotonic(), self._awaited
        self._seconds[before].append(now - since)
        self._awaited = what, now

    def limit(self, what: str) -> float:
        """The seconds that this kind may take."""
        known = self._seconds[what]
        if len(known) < ENOUGH:
            return 60 * self._minutes
        return max(60 * min(LEAST_MINUTES, self._minutes), TIMES_MEDIAN * statistics.median(known))

    def _watch(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            what, since = self._awaited
            left = since + self.limit(what) - time.monotonic()
            if left <= 0:
                self._end(what, time.monotonic() - since)
            pause = min(left, 1.0)

    def _end(self, what: str, seconds: float) -> None:
        path = self._folder / f"hang-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        line = (
            f"hang: {what} was awaited for {seconds:.0f} s; where every thread stands is in {path}; the same command "
            "goes on from the last checkpoint"
        )
        self.say(line)
        settling = threading.Thread(target=self._copy, daemon=True)
        settling.start()
        settling.join(SETTLING_SECONDS)
        signals.leave(STATUS, f"error: {line}")

    def _copy(self) -> None:
        with contextlib.suppress(UserError):  # the run ends in any case
            self._settle()
