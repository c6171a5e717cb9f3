"""What a program prints as its command line can be typed again."""

import shlex
import subprocess
import sys

import pytest

from detr_jax import invocation


@pytest.mark.parametrize(
    "words",
    [
        ["python3", "-m", "detr_jax.train", "--workdir=a folder"],
        [".venv/bin/python", "-m", "detr_jax", "train", "--workdir=runs/detr_jax"],
        ["python", "scripts/sweep.py", "--output=a"],
    ],
)
def test_a_command_of_python_is_as_it_was_typed(monkeypatch, words):
    monkeypatch.setattr(sys, "orig_argv", words)
    assert shlex.split(invocation.command()) == words
    assert invocation.as_typed("run python -m detr_jax.train") == "run python -m detr_jax.train"


def test_the_installed_command_is_as_it_was_typed(monkeypatch, tmp_path):
    script = tmp_path / "detr_jax"
    script.write_text("")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", str(script), "train", "--workdir=a folder"])
    assert invocation.command() == f"{script} train '--workdir=a folder'"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invocation.command() == "detr_jax train '--workdir=a folder'"
    assert invocation.as_typed("type python -m detr_jax.dataset check") == "type detr_jax dataset check"


def test_in_a_process_of_its_own():
    code = "from detr_jax.invocation import command; print(command())"
    done = subprocess.run([sys.executable, "-c", code, "a b"], capture_output=True, text=True)
    assert done.stdout == f"{shlex.join([sys.executable, '-c', code, 'a b'])}\n"
