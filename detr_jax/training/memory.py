"""Too little memory: how much is asked for and there, and which settings would fit."""

import contextlib
import ctypes
import dataclasses
import math
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from detr_jax.batches.inputs import Reader
from detr_jax.config import Config
from detr_jax.errors import UserError
from detr_jax.structures import Bucket
from detr_jax.training.compiled_steps import StepLowering, needed_gigabytes
from detr_jax.training.state import state_shapes, trained_network
from detr_jax.training.step import Recipe

ASKED = re.compile(r"(?:allocat\w*|of size|request\w*)\D{0,40}?(\d+(?:\.\d+)?) ?(bytes|[KMGT]i?B)?", re.IGNORECASE)
# YNNPACK, of XLA on a CPU, gives no reason.
LACK = re.compile(r"RESOURCE_EXHAUSTED|out of memory|YNNPACK operation failed", re.IGNORECASE)
GENERAL = "lower train.batch_size, or set train.accum_steps=2 (or 4, 8), train.remat=True or dtype=bfloat16"


class Mallinfo2(ctypes.Structure):
    """What glibc says of its heap: ten sizes, in the order of ``struct mallinfo2``."""

    _fields_ = [("numbers", ctypes.c_size_t * 10)]


class TooLittleMemory(UserError):
    """A program needs more memory than there is. The message says how much; what would fit is added to it."""


def available_gigabytes(device: jax.Device) -> float | None:
    """What the programs of this process may use of a device's memory; None where that is not known."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit / 1e9
    if device.platform != "cpu" or sys.platform != "linux":
        return None
    arrays = sum(array.nbytes for array in jax.live_arrays())  # the state, which programs count among their needs
    there = min(_machine_memory(), _container_memory(), _address_space() + arrays)
    return there / 1e9 / len(jax.local_devices())  # they share it


def check_fits(compiled: jax.stages.Compiled, bucket: Bucket) -> None:
    """Raises TooLittleMemory when a program needs more than its device has, before it is run."""
    device = jax.local_devices()[0]
    there, needed = available_gigabytes(device), needed_gigabytes(compiled)
    if there is not None and needed > there:
        raise TooLittleMemory(
            f"a training step on the canvas {bucket.height}x{bucket.width} needs {needed:.2f} GB on each device, and "
            f"{there:.2f} GB are there"
        )


def suggest(recipe: Recipe, reader: Reader, bucket: Bucket, say: Callable[[str], None]) -> str:
    """Settings that would fit, with what they need; found by compiling the step with them."""
    there = available_gigabytes(jax.local_devices()[0])
    say("out of memory; compiling the step with other settings, to find some that fit ...")
    smallest = None
    for flags, config in smaller_configs(recipe.config, recipe.mesh.size):
        other = recipe._replace(config=config, network=trained_network(config, recipe.categories))
        try:
            needed = needed_gigabytes(StepLowering(other, reader)(state_shapes(other), bucket).compile())
        except jax.errors.JaxRuntimeError:  # the compiler itself found that it does not fit
            continue
        if smallest is None or needed < smallest[1]:
            smallest = flags, needed
        if there is not None and needed < there:
            return f"{flags} needs {needed:.2f} GB and would fit"
    if smallest is None or there is not None:
        return f"no other batch of this model fits: {GENERAL}, or smaller data.buckets with smaller data.scales"
    return f"{smallest[0]} needs the least, {smallest[1]:.2f} GB"


def smaller_configs(config: Config, device_count: int) -> Iterator[tuple[str, Config]]:
    """Changes that train the same model with less memory, the cheapest first: what to type, and the settings."""
    for remat in dict.fromkeys((config.train.remat, True)):
        for parts in (1, 2, 4, 8, 16):
            steps = config.train.accum_steps * parts
            if (parts > 1 or remat != config.train.remat) and config.train.batch_size % (steps * device_count) == 0:
                typed = [f"train.accum_steps={steps}"] if parts > 1 else []
                typed += ["train.remat=True"] if remat != config.train.remat else []
                train = dataclasses.replace(config.train, accum_steps=steps, remat=remat)
                yield " ".join(typed), dataclasses.replace(config, train=train)


@contextlib.contextmanager
def explain_out_of_memory(advise: Callable[[], str] = lambda: GENERAL) -> Iterator[None]:
    """Turns a lack of memory, of the device or the host, into one sentence with what ``advise`` finds."""
    try:
        yield
    except TooLittleMemory as error:
        raise UserError(f"{error}; {advise()}") from error
    except MemoryError as error:
        raise UserError("the memory of this machine is exhausted; lower data.threads, or train.batch_size") from error
    except jax.errors.JaxRuntimeError as error:
        if not LACK.search(str(error)):
            raise
        raise UserError(f"{_describe(str(error))}; {advise()}") from error


def _describe(message: str) -> str:
    asked = ASKED.search(message)
    wanted = f" ({asked[1]} {asked[2] or 'bytes'} were asked for)" if asked else ""
    there = available_gigabytes(jax.local_devices()[0])
    return f"out of memory{wanted}" + (f": each device has {there:.2f} GB" if there is not None else "")


def _machine_memory() -> int | float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # all of it: what others use may come back


def _container_memory() -> int | float:
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return int(text) if text.isdecimal() else math.inf


def _address_space() -> int | float:
    """What ``ulimit -v`` leaves, the part of the heap that is reserved and free included."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    return limit - used + _free_heap()


def _free_heap() -> int:
    """Bytes that glibc holds and does not use."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0

    libc.mallinfo2.restype = Mallinfo2
    return libc.mallinfo2().numbers[8]  # fordblks
