"""The command ``detr_jax``: it lists the programs, runs the one that is named, and names the nearest to another."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detr_jax import __version__
from detr_jax.__main__ import PROGRAMS
from tests.programs import REPOSITORY

# What pip writes into the folder of Python's programs.
SCRIPT = f"#!{sys.executable}\nimport sys\nfrom detr_jax.__main__ import main\nsys.exit(main())\n"


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """The installed command."""
    path = tmp_path_factory.mktemp("bin") / "detr_jax"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


def environment(script: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{script.parent}:{os.environ['PATH']}"}


def run(script: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, env=environment(script), cwd=script.parent, capture_output=True, text=True)


def test_every_program_is_listed():
    files = {path.stem for path in (REPOSITORY / "detr_jax").glob("*.py") if "cli.run(main" in path.read_text()}
    assert PROGRAMS.keys() == files - {"cli"}


@pytest.mark.parametrize("words", [["detr_jax"], ["detr_jax", "--help"], [sys.executable, "-m", "detr_jax", "help"]])
def test_the_programs_have_a_line_each(script, words):
    done = run(script, *words)
    assert (done.returncode, done.stderr) == (0, "")
    for name, meaning in PROGRAMS.items():
        assert f"  {name:<10} {meaning}\n" in done.stdout
    assert len(done.stdout.splitlines()) <= 40


def test_the_list_needs_no_library(script):
    code = (
        "import sys; sys.argv = ['detr_jax']; from detr_jax.__main__ import main; main(); print('jax' in sys.modules)"
    )
    assert run(script, sys.executable, "-c", code).stdout.endswith("\nFalse\n")


def test_the_version(script):
    assert run(script, "detr_jax", "--version").stdout == f"{__version__}\n"


def test_a_program_that_does_not_exist_is_one_sentence(script):
    done = run(script, "detr_jax", "trian", "--workdir=a")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no program 'trian'; did you mean train? There are dataset, train, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("start", [["detr_jax"], [sys.executable, "-m", "detr_jax"]], ids=["command", "-m"])
def test_it_does_the_same_as_the_module(script, start):
    arguments = ["dataset", "stats", "--name=none", "--data_dir=nowhere"]
    done = run(script, *start, *arguments)
    assert done.returncode == 1 and "nowhere" in done.stderr
    module = run(script, sys.executable, "-m", "detr_jax.dataset", *arguments[1:])
    assert done.stderr.replace("with detr_jax dataset", "with python -m detr_jax.dataset") == module.stderr


def test_help_shows_commands_as_they_are_typed(script):
    done = run(script, "detr_jax", "dataset", "prepare", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "    detr_jax dataset prepare --name=cells" in done.stdout and "python -m" not in done.stdout
    assert "did you mean prepare?" in run(script, "detr_jax", "dataset", "prepair").stderr


@pytest.mark.parametrize("seconds", [0.4, 1.0])
def test_stopped_in_imports(script, seconds):
    words = ["detr_jax", "dataset", "stats"]
    process = subprocess.Popen(words, env=environment(script), stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGINT, 130) and err in ("", "stopped by SIGINT\n")
