"""Bash, ShellCheck and Hadolint have nothing to say about the scripts; the last two come with requirements-dev.txt."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import REPOSITORY

SHELL = sorted([*REPOSITORY.glob("scripts/*.sh"), *REPOSITORY.glob("scripts/*.sbatch"), REPOSITORY / ".ci/run"])


def find_tool(name: str) -> str:
    """The program that pip has installed beside this Python, or another one; says plainly when there is none."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} missing: pip install -r requirements-dev.txt")
    return found


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck(path):
    done = subprocess.run([find_tool("shellcheck"), path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_bash_can_parse(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hadolint():
    dockerfile = REPOSITORY / "scripts/docker/Dockerfile"
    done = subprocess.run([find_tool("hadolint"), dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
