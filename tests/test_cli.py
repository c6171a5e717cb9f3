"""How programs start and how they fail: one sentence, status 1, the traceback only on demand."""

import subprocess
import sys
from pathlib import Path

import pytest

from detr_jax import cli
from detr_jax.errors import UserError

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
    assert (done.returncode, done.stderr) == (1, "error: there is no flag --wat; did you mean --what?\n")


def test_verbs_are_chosen_and_mistyped_ones_named():
    verbs = {"show": print, "stats": len}
    assert cli.choose_verb(["program", "show", "a"], verbs) == (print, ["a"])
    with pytest.raises(UserError, match="^there is no verb 'shwo'; did you mean show[?] There are show, stats$"):
        cli.choose_verb(["program", "shwo"], verbs)
    with pytest.raises(UserError, match="^a verb is missing; choose from show, stats$"):
        cli.choose_verb(["program"], verbs)


def test_words_besides_the_flags_are_refused():
    cli.refuse_words([])
    with pytest.raises(UserError, match="^'photo.jpg' is not understood; values are given as --flag=value$"):
        cli.refuse_words(["photo.jpg", "other.jpg"])


def test_help_is_the_page_of_the_program():
    done = run('"""Does this and that."""\n' + PROGRAM, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Does this and that.\n\nFlags:\n  --what=0 ") and "  --debug " in done.stdout
    assert "--verbosity" not in done.stdout and "--verbosity" in run(PROGRAM, "--helpfull").stdout


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
