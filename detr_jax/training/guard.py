"""What may go wrong in a long run: a signal to stop, numbers that are not finite, too little memory, a hang."""

import contextlib
import faulthandler
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from detr_jax import files
from detr_jax.errors import UserError


class StopSignal:
    """Notices SIGTERM and SIGINT without interrupting the step; every host of a pod agrees on the step to stop at.

    Use as a context manager: the handlers that were there before come back. With several processes SIGTERM belongs to
    JAX, whose service tells all of them.
    """

    def __init__(self):
        self._received = False

    def __enter__(self) -> "StopSignal":
        numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._previous = {number: signal.signal(number, self._notice) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, number, frame) -> None:
        if self._received:  # asked twice: the user does not want to wait
            raise KeyboardInterrupt
        self._received = True

    def __call__(self, step: int) -> bool:
        """Whether to save and stop after ``step``; the same answer on every host."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def received(self) -> bool:
        """Whether to break off what can be done again. Never on several hosts: each would break off somewhere else."""
        return self._received and jax.process_count() == 1


def report_skipped(rows: list[dict], folder: Path) -> None:
    """Writes one file for each skipped step: its number, its image ids and what was measured. The first host does."""
    for row in rows if jax.process_index() == 0 else ():
        with files.replacing(folder / f"step_{row['step']:08d}.json") as path:
            path.write_text(json.dumps(row, indent=1), encoding="utf-8")


def check_skipped(in_a_row: int, limit: int, folder: Path) -> None:
    """Raises UserError when ``limit`` steps in a row had to be skipped: the run does not recover by itself."""
    if in_a_row >= limit:
        raise UserError(
            f"the last {in_a_row} steps had a loss or gradient that is not finite (details in {folder}); the last "
            "checkpoint is good: lower optim.lr, or lower optim.clip_norm, or use dtype=float32, then run the same "
            "command in a new workdir with init_from=THIS_WORKDIR"
        )


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turns an out-of-memory failure of the device into one sentence with the settings that help."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        raise UserError(
            f"the device is out of memory ({str(error).splitlines()[0][:160]}); try, in this order, "
            "dtype=bfloat16, train.accum_steps=2 (or 4, 8), train.remat=True, a smaller train.batch_size, smaller "
            "data.buckets with smaller data.scales"
        ) from error


def expect_progress(minutes: float) -> None:
    """To be called at every sign of progress. If the next call does not come within ``minutes``, all stacks are printed
    and the process ends with status 1, so that a scheduler restarts it instead of paying for a hang. 0 switches it off.
    """
    faulthandler.cancel_dump_traceback_later()
    if minutes > 0:
        faulthandler.dump_traceback_later(minutes * 60, exit=True)


@contextlib.contextmanager
def watch_progress(minutes: float) -> Iterator[None]:
    """The context in which progress is expected (``expect_progress``)."""
    expect_progress(minutes)
    try:
        yield
    finally:
        expect_progress(0.0)
