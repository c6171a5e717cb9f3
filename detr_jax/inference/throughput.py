"""Where the time of a run over images goes."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from detr_jax.spelling import count

Result = TypeVar("Result")


class Throughput:
    """Seconds by what they were spent on, and the number of images that came out.

    Attributes:
      seconds: of each part of the work, in the order in which they were first spent.
    """

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._images, self._started = 0, time.perf_counter()
        self._current: str | None = None

    @contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Counts the seconds of the block for this part, and not for the part of a block around it."""
        around, self._current, started = self._current, part, time.perf_counter()
        try:
            yield
        finally:
            self._current = around
            self.move(time.perf_counter() - started, before=around, after=part)

    def move(self, seconds: float, before: str | None, after: str) -> None:
        """Counts seconds for one part that are counted for another, now or in a moment."""
        self.seconds[after] += seconds
        if before:
            self.seconds[before] -= seconds

    def over(self, results: Iterable[Result], part: str) -> Iterator[Result]:
        """The results, each of an image; the seconds until each of them comes are counted for this part."""
        results = iter(results)
        while True:
            with self.spending(part):
                try:
                    result = next(results)
                except StopIteration:
                    return
            self._images += 1
            yield result

    def summary(self) -> str:
        """One line: "12 images in 3.2 s, 3.8 images/s (checking files 0.4 s, model 2.8 s)"."""
        total = time.perf_counter() - self._started
        parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.seconds.items())
        images = count(self._images, "image")
        rate = self._images / max(total, 1e-9)
        return f"{images} in {total:.1f} s, {rate:{',.0f' if rate >= 100 else '.3g'}} images/s ({parts})"
