"""How the processes of a run find each other, and the one sentence when one is missing: real sockets, short times."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from detr_jax import hosts
from detr_jax.errors import UserError
from detr_jax.hosts import Place, find_place, meet
from detr_jax.signals import StopSignals

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in (*VARIABLES, "TPU_WORKER_HOSTNAMES", "SLURM_STEP_NODELIST", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


def meet_all(address: str, count: int, numbers: list[int], seconds: float, late: float = 0.0) -> list[str]:
    """What each of these processes of ``count`` is told; "" for one that met all others. The first comes ``late``."""

    def one(number: int) -> str:
        time.sleep(late if number == numbers[0] else 0.0)
        try:
            meet(Place(address, count, number), seconds)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(numbers)) as threads:
        return list(threads.map(one, numbers))


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_all_come(address, late):
    begin = time.monotonic()
    assert meet_all(address, 3, [0, 1, 2], 30.0, late) == ["", "", ""]
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("numbers", "named"),
    [([0, 2], "process 1"), ([0], "processes 1, 2"), ([1, 2], "process 0"), ([2], "process 0")],
)
def test_the_missing_ones_are_named_to_all_that_are_there(address, numbers, named):
    begin = time.monotonic()
    told = meet_all(address, 3, numbers, 2.0)
    expected = f"{named} of 3 (counted from 0) did not come to {address} within 2 s; run the same command on every host"
    assert all(sentence.startswith(expected) and "\n" not in sentence for sentence in told) and len(told) == len(
        numbers
    )
    assert 1.5 < time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"detr_jax": "x"}\n', b'{"detr_jax": 7}\n', b""]
)
def test_strangers_on_the_port_do_not_count(address, words):
    """One that asks for a page, and one that says what no process of this run says."""
    host, port = address.split(":")
    told = []
    first = threading.Thread(target=lambda: told.extend(meet_all(address, 2, [0], 20.0)))
    first.start()
    deadline = time.monotonic() + 5
    while True:
        try:
            stranger = socket.create_connection((host, int(port)))
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with stranger:
        stranger.sendall(words)
        if not words:
            stranger.shutdown(socket.SHUT_WR)
        assert meet_all(address, 2, [1], 20.0) == [""]
    first.join()
    assert told == [""]


def test_a_stranger_who_listens_at_the_address(address):
    """Something else has the port: process 0 says so, and the others do not take its answer for theirs."""
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as other:
        (sentence,) = meet_all(address, 2, [0], 2.0)
        assert sentence.startswith(f"process 0 cannot listen at port {port} (Address already in use); choose another")

        def answer() -> None:
            other.settimeout(2.5)
            try:
                while True:
                    guest, _ = other.accept()
                    with guest:
                        guest.recv(1000)
                        guest.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            except OSError:
                return

        thread = threading.Thread(target=answer)
        thread.start()
        (sentence,) = meet_all(address, 2, [1], 2.0)
        thread.join()
        assert sentence.startswith("process 0 of 2 (counted from 0) did not come")


def test_the_environment_names_no_other_process():
    assert find_place() is None
    hosts.start_hosts()


def test_the_environment_names_a_place(monkeypatch):
    for name, value in zip(VARIABLES, ("host0:1234", "3", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert find_place() == Place("host0:1234", 3, 2.0)


@pytest.mark.parametrize(
    "values",
    [
        ("host0:1234", None, "0"),
        ("host0:1234", "2", None),
        ("host0:1234", "two", "0"),
        ("host0:1234", "2", "2"),
        ("host0:1234", "2", "-1"),
        ("host0", "2", "0"),
        ("host0:", "2", "0"),
    ],
)
def test_a_wrong_environment_is_one_sentence(monkeypatch, values):
    for name, value in zip(VARIABLES, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="the environment has .*; give the address as HOST:PORT") as caught:
        find_place()
    for name, value in zip(VARIABLES, values, strict=True):
        assert f"{name}={value or 'nothing'}" in str(caught.value)


def test_a_number_that_comes_twice(address):
    """Two processes with one number: it counts once, and the missing one is named."""
    told = meet_all(address, 3, [0, 1, 1], 2.0)
    assert told[0].startswith("process 2 of 3")


def test_one_process_agrees_with_itself():
    with StopSignals() as stop:
        agree = hosts.Agreement(stop)
        assert not agree()
        os.kill(os.getpid(), signal.SIGTERM)
        assert agree()


def test_one_process_has_nobody_to_tell_or_to_leave():
    hosts.preemption_notifier()()
    hosts.part()
    assert hosts.describe_process().startswith("process 0 of 1: host ")
