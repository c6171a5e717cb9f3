"""Times several ways to do the same thing in turns, so that other load on the machine falls on all of them alike."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds that one way took, over all rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        factor, unit = (1e3, "ms") if self.median < 10 else (1.0, "s")
        return f"{self.median * factor:.2f} {unit} ({self.least * factor:.2f} to {self.most * factor:.2f})"


def summarize(seconds: list[float]) -> Timing:
    """Median and range of these measurements."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def time_in_turns(ways: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Calls every way once in each round, after ``warm_up`` rounds that do not count.

    A call ends when the JAX arrays in its result are computed; anything else must be ready when it returns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + rounds):
        for name, call in ways.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return {name: summarize(taken) for name, taken in seconds.items()}
