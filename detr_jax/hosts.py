"""The processes of a run on several hosts: how they find each other, and what is said when one of them is missing.

JAX's own way to join aborts the process after five minutes of silence and names nobody, so the processes meet first:
at the coordinator's address, where JAX listens afterwards.
"""

import ctypes
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize() itself asks; there is no public way
from jax.experimental import multihost_utils

from detr_jax.errors import UserError
from detr_jax.signals import StopSignals

MEET_SECONDS = 60.0
HEARTBEAT_SECONDS = 15  # without a sign of life, after which JAX gives a process up
RETRY_SECONDS = 0.2
PATIENCE = 1800  # seconds that hosts wait for what the first one reads, checks or writes on its own


class Place(NamedTuple):
    """Where this process stands among those of the run."""

    coordinator: str  # host:port of process 0
    count: int
    number: int


def start_hosts() -> None:
    """Joins the other processes of a run when the environment names any; does nothing otherwise.

    JAX finds Cloud TPU and Slurm itself. Elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in
    each process.

    Raises UserError, which names them, when processes do not come within a minute.
    """
    place = find_place()
    if place is None:
        return
    if place.count > 1:
        meet(place)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.number,
        initialization_timeout=int(MEET_SECONDS),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def find_place() -> Place | None:
    """What the environment says of this process; None when it is the only one."""
    given = {name: os.environ.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    if given["JAX_COORDINATOR_ADDRESS"]:
        try:
            address, count, number = given.values()
            place = Place(address, int(count), int(number))
        except (TypeError, ValueError):
            place = None
        if place is None or not 0 <= place.number < place.count or not place.coordinator.rpartition(":")[2].isdecimal():
            said = ", ".join(f"{name}={value or 'nothing'}" for name, value in given.items())
            raise UserError(
                f"the environment has {said}; give the address as HOST:PORT of the first process, the number of "
                "processes, and in each process its own number from 0"
            )
        return place
    tpu_hosts = [host for host in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slurm_tasks = int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_NODELIST" in os.environ else 1
    if len(tpu_hosts) <= 1 and slurm_tasks <= 1:
        return None
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(MEET_SECONDS))
    return Place(*found[:3])


def meet(place: Place, seconds: float = MEET_SECONDS) -> None:
    """Returns when all processes have come to the coordinator's address.

    Raises UserError, which names the missing ones, when they have not come within ``seconds``.
    """
    host, _, port = place.coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    missing = _receive(int(port), place, deadline) if place.number == 0 else _visit(host, int(port), place, deadline)
    if missing:
        names = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(map(str, missing))}"
        raise UserError(
            f"{names} of {place.count} (counted from 0) did not come to {place.coordinator} within {seconds:.0f} s; "
            "run the same command on every host, and let the hosts reach that address"
        )


def _receive(port: int, place: Place, deadline: float) -> list[int]:
    """Waits for the visits of all others, and tells each of them who is missing."""
    guests: dict[int, socket.socket] = {}
    try:
        listener = socket.create_server(("", port), backlog=place.count)
    except OSError as error:
        reason = os.strerror(error.errno)
        raise UserError(
            f"process 0 cannot listen at port {port} ({reason}); choose another in JAX_COORDINATOR_ADDRESS"
        ) from error
    with listener:
        listener.settimeout(RETRY_SECONDS)
        while len(guests) < place.count - 1 and time.monotonic() < deadline:
            try:
                guest, _ = listener.accept()
                guest.settimeout(5.0)
                number = json.loads(guest.makefile().readline())["detr_jax"]
            except (OSError, ValueError, KeyError, TypeError):  # a timeout, or a stranger
                continue
            if number in range(1, place.count):
                guests[number] = guest
    missing = sorted(set(range(1, place.count)) - guests.keys())
    for guest in guests.values():
        with guest:
            guest.sendall((json.dumps(missing) + "\n").encode())
    return missing


def _visit(host: str, port: int, place: Place, deadline: float) -> list[int]:
    """Tells process 0 that this one is there, and returns who is missing."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=5.0) as visit:
                visit.sendall((json.dumps({"detr_jax": place.number}) + "\n").encode())
                visit.settimeout(max(deadline + 10.0 - time.monotonic(), 1.0))
                return json.loads(visit.makefile().readline())
        except (OSError, ValueError):  # it has not started yet, or has just given up
            time.sleep(RETRY_SECONDS)
    return [0]


def describe_process() -> str:
    """One line of this process: its number, host and devices."""
    local = jax.local_devices()
    kind = local[0].device_kind
    return (
        f"process {jax.process_index()} of {jax.process_count()}: host {socket.gethostname()}, "
        f"{len(local)} of {jax.device_count()} devices ({kind})"
    )


def preemption_notifier() -> Callable[[], object]:
    """What tells JAX's service that this process is asked to stop, as SIGTERM does before somebody else handles it.

    To be asked for before a handler of SIGTERM is set. It does nothing where there is one process.
    """
    if jax.process_count() == 1:
        return lambda: None
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    handler = libc.signal(signal.SIGTERM, None)  # from C: Python knows only the handlers that were set from Python
    return lambda: ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)(signal.SIGTERM)


class Agreement:
    """Whether to stop here: the same answer on every process, which all call it equally often."""

    def __init__(self, stop: StopSignals):
        self._stop, self._calls = stop, 0

    def __call__(self) -> bool:
        if jax.process_count() == 1:
            return bool(self._stop.received)
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)


def part(seconds: float = 3.0) -> None:
    """Leaves the other processes; gives them a moment to do the same, so that none of them misses this one."""
    if jax.process_count() > 1:
        leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        leaving.start()
        leaving.join(seconds)


def from_first_host(call: Callable[[], Any]) -> Any:
    """What ``call()`` returns, on every host; only the first one calls it. It has to be a value that JSON can hold.

    Raises UserError on every host when the call does.
    """
    if jax.process_count() == 1:
        return call()
    text = b""
    if jax.process_index() == 0:
        try:
            text = json.dumps({"value": call()}).encode()
        except UserError as error:
            text = json.dumps({"mistake": str(error)}).encode()
    # A collective operation of CPUs gives up on a host that is half a minute late; this barrier does not.
    ocp.multihost.get_barrier_sync_fn()(key="from_first_host", timeout_ms=PATIENCE * 1000)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text.ljust(length), np.uint8)
    answer = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if "mistake" in answer:
        raise UserError(answer["mistake"])
    return answer["value"]


def say(text: str) -> None:
    """Prints a line, on the first host alone."""
    if jax.process_index() == 0:
        print(text)


def wait_for_hosts(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
