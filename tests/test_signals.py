"""Signals that ask a program to stop, in small programs: where they are obeyed, with what status and lines."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from detr_jax import signals
from detr_jax.signals import Interrupted, StopSignals
from tests.programs import REPOSITORY

PROGRAM = """
import signal, sys, threading, time
from detr_jax import signals
signals.GRACE = 0.5
def ready():
    print("ready", flush=True)
"""
# Like a compilation: the main thread is in native code, which no signal interrupts.
STUCK = """
    import ctypes
    threading.Timer(0.5, ready).start()
    mutex, native = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    while True:
        native.pthread_mutex_lock(mutex)
"""


class Started:
    """A program that has said that it is ready."""

    def __init__(self, code: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + code],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def end(self, *numbers: int, pause: float = 0.5) -> tuple[int, list[str], list[str]]:
        """Status, lines of standard output and of standard error after these signals."""
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(pause)
        status = self.process.wait(timeout=30)
        return status, self.process.stdout.read().splitlines(), self.process.stderr.read().splitlines()


@pytest.mark.parametrize("number", signals.NUMBERS, ids=lambda number: number.name)
def test_a_signal_is_noticed_and_the_handlers_come_back(number):
    before = [signal.getsignal(one) for one in signals.NUMBERS]
    seen = []
    with StopSignals(lambda: seen.append("notified")) as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received == number and seen == ["notified"]
    assert [signal.getsignal(one) for one in signals.NUMBERS] == before
    assert not [thread for thread in threading.enumerate() if thread.name == "signals" and thread.join(5)]


def test_what_waits_is_interrupted_once():
    with StopSignals() as stop:
        with pytest.raises(Interrupted), stop.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")
        with pytest.raises(Interrupted), stop.waiting():
            pytest.fail("began to wait")
        with stop.waiting(raises=False):  # as a save after it
            done = True
    assert done


def test_an_interruption_that_a_library_swallows_leaves_the_block():
    code = """
signals.GRACE = 30.0
class Careless:  # Python swallows what is raised in its end, and says so on standard error
    def __del__(self):
        ready()
        time.sleep(20)
with signals.StopSignals() as stop:
    try:
        with stop.waiting():
            Careless()
            print("went on", flush=True)
    except signals.Interrupted:
        print("interrupted", flush=True)
"""
    status, out, err = Started(code).end(signal.SIGTERM)
    assert (status, out) == (0, ["went on", "interrupted"]) and "Exception ignored in" in err[0]


def test_an_interruption_that_a_library_makes_an_error_of_stays_one():
    with StopSignals() as stop, pytest.raises(Interrupted) as caught, stop.waiting():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("a callback failed") from error
    assert str(caught.value.__cause__) == "a callback failed"


def test_an_error_before_any_signal_stays_an_error():
    with StopSignals() as stop, pytest.raises(RuntimeError, match="^of its own$"), stop.waiting():
        raise RuntimeError("of its own")


def test_what_must_not_be_interrupted_goes_on():
    with StopSignals() as stop:
        with stop.waiting(), stop.waiting(raises=False):
            os.kill(os.getpid(), signal.SIGTERM)
        with stop.waiting(raises=False):
            done = True
    assert done and stop.received == signal.SIGTERM


def test_another_thread_notices_nothing():
    before = [signal.getsignal(one) for one in signals.NUMBERS]

    def enter():
        with StopSignals() as stop, stop.waiting():
            assert [signal.getsignal(one) for one in signals.NUMBERS] == before and not stop.received

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()


@pytest.mark.parametrize("number", signals.NUMBERS, ids=lambda number: number.name)
def test_imports_die_in_one_line(number):
    started = Started("signals.die_in_one_line(); ready(); time.sleep(60)")
    assert started.end(number) == (128 + number, [], [f"stopped by {number.name}"])


def test_a_main_thread_that_does_not_come_back_is_abandoned():
    code = """
def abandon():
    print("saved", flush=True)
    return 0, "told"
with signals.StopSignals(abandon=abandon) as stop, stop.waiting():
"""
    begin = time.monotonic()
    assert Started(code + STUCK).end(signal.SIGTERM) == (0, ["saved"], ["told"])
    assert time.monotonic() - begin < 20


def test_a_fault_on_the_way_out_is_one_line():
    code = """
with signals.StopSignals(abandon=lambda: 1 / 0) as stop, stop.waiting():
"""
    assert Started(code + STUCK).end(signal.SIGTERM) == (1, [], ["error: division by zero"])


def test_what_is_not_waiting_is_not_abandoned():
    code = """
with signals.StopSignals() as stop:
    ready()
    while not stop.received:
        time.sleep(0.01)
    time.sleep(2)  # a save
    print("saved")
"""
    assert Started(code).end(signal.SIGTERM) == (0, ["saved"], [])


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_signal_ends_the_program_at_once_wherever_it_is(numbers):
    code = """
with signals.StopSignals() as stop:
"""
    begin = time.monotonic()
    status, out, err = Started(code + STUCK).end(*numbers)
    assert (status, out) == (128 + numbers[1], []) and err == [f"stopped by {numbers[0].name}"]
    assert time.monotonic() - begin < 20


def test_leave_ends_the_process_whatever_its_threads_do():
    code = """
threading.Thread(target=time.sleep, args=(60,)).start()
ready()
sys.stdout.write("last")
signals.leave(7, "a line")
"""
    assert Started(code).end() == (7, ["last"], ["a line"])
