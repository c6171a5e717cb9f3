"""How programs start and how they fail: one sentence, status 1, the traceback only on demand."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROGRAM = """
from absl import flags
from detr_jax import cli
from detr_jax.errors import UserError

def main(argv):
    if flags.FLAGS.what == "mistake":
        raise UserError("train.batch_size=3 cannot be split; make it a multiple of 2")
    return int(flags.FLAGS.what)

def define_flags():
    flags.DEFINE_string("what", "0", "Status to return.")

cli.run(main, define_flags)
"""
HOST = """
from absl import app, flags
flags.DEFINE_bool("debug", True, "The host program's own.")
flags.DEFINE_string("workdir", "mine", "The host program's own.")
import detr_jax
from detr_jax import benchmark, convert, dataset, evaluate, predict, train
def main(argv):
    assert callable(detr_jax.load) and flags.FLAGS.debug and flags.FLAGS.workdir == "mine"
    print("fine")
app.run(main)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_a_mistake_is_one_sentence_that_names_the_flag():
    done = run(PROGRAM, "--what=mistake")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --config.train.batch_size=3 cannot be split; make it a multiple of 2\n"


def test_debug_shows_the_traceback():
    done = run(PROGRAM, "--what=mistake", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr and "UserError" in done.stderr


def test_the_status_is_that_of_main():
    assert [run(PROGRAM, f"--what={status}").returncode for status in (0, 2)] == [0, 2]


def test_an_unknown_flag_is_one_sentence():
    done = run(PROGRAM, "--wat=1")
    assert done.returncode == 1 and "wat" in done.stderr and "Traceback" not in done.stderr


def test_a_host_program_may_have_flags_of_the_same_names():
    done = run(HOST)
    assert done.stdout == "fine\n", done.stderr


def test_a_thread_that_drops_an_array_at_the_end_does_no_harm():
    """JAX aborts the process when an array goes in another thread while Python takes itself apart."""
    code = """
import threading, time
import jax.numpy as jnp
from detr_jax import cli

def drop():
    while True:
        arrays = [jnp.zeros(()) for _ in range(10)]

def main(argv):
    for _ in range(4):
        threading.Thread(target=drop, daemon=True).start()
    time.sleep(0.5)

cli.run(main, lambda: None)
"""
    for _ in range(3):
        done = run(code)
        assert (done.returncode, done.stderr) == (0, "")
