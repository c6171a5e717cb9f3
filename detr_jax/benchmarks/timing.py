"""Times of several ways to do the same, taken in turns, so that a machine's moods fall on all of them alike."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds of one way over all rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        unit, name = (1e3, "ms") if self.median < 10 else (1.0, "s")
        return f"{self.median * unit:.2f} {name} ({self.least * unit:.2f} to {self.most * unit:.2f})"


def of(seconds: list[float]) -> Timing:
    """What there is to say of these measurements."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def in_turns(ways: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Calls every way once a round and waits for what it returns; the first ``warm_up`` rounds do not count.

    JAX arrays in the result are waited for; anything else must be ready when the call returns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + rounds):
        for name, call in ways.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return {name: of(taken) for name, taken in seconds.items()}
