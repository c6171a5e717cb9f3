"""The workdir that the tests of checkpoints share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A workdir with steps 10 (the best) and 20. Tests that change it work on a copy."""
    from tests.weights.small_run import write  # not above: types of what is imported before the session are not checked

    workdir = tmp_path_factory.mktemp("run")
    write(workdir / "checkpoints", {10: 0.4, 20: 0.3}, averaged=True)
    return workdir


@pytest.fixture
def workdir(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "run", symlinks=True))
