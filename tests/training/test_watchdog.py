"""A hang ends the process with status 75 and the stacks of its threads; what is slow but regular goes on."""

import subprocess
import sys
import time

from detr_jax.training.watchdog import LEAST_MINUTES, TIMES_MEDIAN, Watchdog
from tests.programs import REPOSITORY

PROGRAM = """
import sys, time
from pathlib import Path
from detr_jax.training.watchdog import Watchdog
def stand_still(seconds):
    time.sleep(seconds)
with Watchdog(float(sys.argv[1]), Path(sys.argv[2]), lambda line: print("log:", line, flush=True)) as watch:
    for seconds in map(float, sys.argv[3:]):
        watch.expect("a step")
        stand_still(seconds)
print("end")
"""


def run(minutes: float, folder, *seconds: float) -> subprocess.CompletedProcess:
    arguments = [str(argument) for argument in (minutes, folder, *seconds)]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )


def test_a_hang_ends_with_a_line_the_stacks_and_status_75(tmp_path):
    begin = time.monotonic()
    done = run(1 / 60, tmp_path / "run", 50)  # one second
    assert done.returncode == 75 and time.monotonic() - begin < 40
    (path,) = (tmp_path / "run").glob("hang-*.txt")
    assert "stand_still" in path.read_text() and "watchdog" in path.read_text()
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hang: a step was awaited for 1 s;") and str(path) in line
    assert done.stdout == line.replace("error: ", "log: ") + "\n"


def test_the_stacks_are_copied_before_the_end_but_not_for_long(tmp_path):
    settle = """
import time
from detr_jax.training import watchdog
watchdog.SETTLING_SECONDS = 1.0
def settle():
    print("copied", len(list(Path(sys.argv[2]).glob("hang-*.txt"))), flush=True)
    time.sleep(50)
"""
    changed = PROGRAM.replace("def stand_still", settle + "def stand_still").replace(
        "flush=True))", "flush=True), settle)"
    )
    command = [sys.executable, "-c", changed, str(1 / 60), str(tmp_path), "50"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=40)
    assert done.returncode == 75 and done.stdout.splitlines()[1] == "copied 1"


def test_what_goes_on_is_not_ended(tmp_path):
    done = run(1 / 60, tmp_path / "run", *[0.4] * 5)  # longer than the limit only together
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "") and not (tmp_path / "run").exists()


def test_zero_never_ends_a_run(tmp_path):
    done = run(0, tmp_path / "run", 1.5)
    assert (done.returncode, done.stdout) == (0, "end\n")


def test_it_does_not_hold_up_the_end(tmp_path):
    begin = time.monotonic()
    with Watchdog(60.0, tmp_path) as watch:
        watch.expect("a step")
    assert time.monotonic() - begin < 1.0


def take(watch: Watchdog, clock, what: str, seconds: list[float]) -> None:
    for one in seconds:
        watch.expect(what)
        clock.now += one
    watch.expect("something else")


def test_the_limit_of_a_kind_is_learned_from_five(tmp_path, clock):
    watch = Watchdog(60.0, tmp_path)
    take(watch, clock, "a save", [30.0, 40.0, 50.0, 9000.0])
    assert watch.limit("a save") == 3600
    take(watch, clock, "a save", [45.0])
    assert watch.limit("a save") == TIMES_MEDIAN * 45.0  # one slow save changes nothing
    assert watch.limit("a step") == 3600  # each kind has its own


def test_the_limit_is_never_short(tmp_path, clock):
    watch = Watchdog(60.0, tmp_path)
    take(watch, clock, "a step", [0.1] * 10)
    assert watch.limit("a step") == 60 * LEAST_MINUTES
    watch = Watchdog(2.0, tmp_path)  # asked for
    take(watch, clock, "a step", [0.1] * 10)
    assert watch.limit("a step") == 120


def test_a_kind_that_becomes_slower_is_followed(tmp_path, clock):
    watch = Watchdog(60.0, tmp_path)
    take(watch, clock, "a step", [20.0] * 100)
    assert watch.limit("a step") == 400
    take(watch, clock, "a step", [100.0] * 100)
    assert watch.limit("a step") == 2000
