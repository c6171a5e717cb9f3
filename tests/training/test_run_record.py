"""What a run says of how it was started."""

import datetime
import importlib.metadata
import json
import shlex
import subprocess
import sys

import jax

from detr_jax.training import run_record


def test_versions_of_what_is_installed():
    found = run_record.installed_versions(("jax", "a-package-that-does-not-exist"))
    assert found == {"jax": importlib.metadata.version("jax"), "a-package-that-does-not-exist": None}


def test_every_device_is_named():
    assert run_record.describe_devices() == ["cpu (cpu)"] * jax.device_count()


def test_a_start_tells_when_where_and_with_which_command(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--workdir=my run"])
    start = run_record.describe_start(7)
    assert start["step"] == 7 and start["hosts"] == 1 and start["weights_sha256"] == {}
    assert shlex.split(start["command"]) == ["python", "train.py", "--workdir=my run"]
    assert start["packages"].keys() == set(run_record.PACKAGES) and start["packages"]["jax"] == jax.__version__
    age = datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(start["time"])
    assert datetime.timedelta() <= age < datetime.timedelta(minutes=1)
    assert json.loads(json.dumps(start)) == start


def test_starts_are_written_and_read_back(tmp_path):
    path = tmp_path / "run.json"
    assert run_record.read_starts(path) == []
    starts = [run_record.describe_start(step) for step in (0, 3)]
    run_record.write_starts(path, starts)
    assert run_record.read_starts(path) == starts
    assert json.loads(path.read_text()) == {"starts": starts}


def test_the_commit_is_that_of_the_checkout_and_says_when_it_was_changed(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    module = tmp_path / "detr_jax" / "training" / "run_record.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1")
    monkeypatch.setattr(run_record, "__file__", str(module))
    assert run_record.describe_start(0)["git"] is None  # installed, not a checkout
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert run_record.describe_start(0)["git"] == git("rev-parse", "HEAD")
    module.write_text("x = 2")
    assert run_record.describe_start(0)["git"] == git("rev-parse", "HEAD") + "-dirty"
