"""The TPU script with a ``gcloud`` that takes two folders for the hosts of a slice: nothing leaves this machine."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.programs import REPOSITORY, wait_for

HOSTS = ("host0", "host1")
# Understands the flags that the script gives, and no others; --worker=all is every folder of $POD.
GCLOUD = f"""#!{sys.executable}
import argparse, os, pathlib, shutil, subprocess, sys
assert sys.argv[1:4] == ["compute", "tpus", "tpu-vm"], sys.argv
parser = argparse.ArgumentParser(allow_abbrev=False)
for flag in ("--zone", "--worker", "--command"):
    parser.add_argument(flag)
parser.add_argument("verb", choices=["ssh", "scp"])
parser.add_argument("places", nargs="+")
args = parser.parse_intermixed_args(sys.argv[4:])
assert (args.zone, args.worker) == ("eu-1", "all"), args
hosts = sorted(pathlib.Path(os.environ["POD"]).iterdir())
if args.verb == "scp":
    *files, place = args.places
    assert place == "slice:" and not args.command, args
    [shutil.copy(file, host) for host in hosts for file in files]
    sys.exit()
assert args.places == ["slice"] and args.command, args
started = [
    subprocess.Popen(["bash", "-c", args.command], cwd=host, env=dict(os.environ, HOME=str(host), HOST_NAME=host.name))
    for host in hosts
]
sys.exit(max(process.wait() for process in started))
"""
# The Python of a fresh host: notes what it is asked; instead of an environment it puts itself where uv would make one.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$HOME/asked"
case "$*" in *" venv "*) mkdir -p .venv/bin && ln -sf "$(type -p python3)" .venv/bin/python ;; esac
"""
# A training: says where it runs and with what, then waits until it is told to stop.
PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(0)))
print(os.environ["HOST_NAME"], os.getpid(), sys.argv[1:], flush=True)
time.sleep(float(sys.argv[1]))
"""


class Pod:
    """Two empty hosts, and the script that works on them."""

    def __init__(self, folder: Path):
        self.hosts = [folder / "hosts" / name for name in HOSTS]
        for host in self.hosts:
            (host / "detr_jax").mkdir(parents=True)
        (folder / "bin").mkdir()
        for name, text in {"gcloud": GCLOUD, "python3": PYTHON}.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "POD": str(folder / "hosts"), "TPU": "slice", "ZONE": "eu-1",
        }  # fmt: skip

    def __call__(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "scripts/tpu_pod.sh", *arguments],
            cwd=REPOSITORY,
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def install(self, name: str, text: str) -> None:
        """A program in the checkout of every host, and Python."""
        for host in self.hosts:
            (host / "detr_jax" / name).write_text(text)
            (host / "detr_jax/.venv/bin").mkdir(parents=True, exist_ok=True)
            (host / "detr_jax/.venv/bin/python").symlink_to(sys.executable)

    def logs(self) -> list[str]:
        """run.log of each host."""
        paths = [host / "detr_jax/run.log" for host in self.hosts]
        return [path.read_text() if path.exists() else "" for path in paths]


@pytest.fixture
def pod(tmp_path) -> Pod:
    return Pod(tmp_path)


def test_setup_copies_the_checkout_and_installs(pod):
    kept = [host / "detr_jax/runs" for host in pod.hosts]
    for folder in kept:
        folder.mkdir()
    done = pod("setup")
    assert done.returncode == 0, done.stderr
    for host in pod.hosts:
        with tarfile.open(host / "detr_jax.tar.gz") as archive:
            names = archive.getnames()
        assert "detr_jax/train.py" in names and "configs/detr.py" in names
        assert not [name for name in names if name.startswith((".git/", "runs/", "data/", ".venv")) or ".pyc" in name]
        assert (host / "detr_jax/detr_jax/train.py").read_text() == (REPOSITORY / "detr_jax/train.py").read_text()
        assert (host / "asked").read_text().splitlines() == [
            "-m pip install --quiet --user uv",
            "-m uv venv --quiet --allow-existing --seed --python=3.12",
            "-m pip install --quiet -r requirements.txt jax[tpu]",
        ]
    assert all(folder.is_dir() for folder in kept)
    assert pod("setup").returncode == 0  # again after a change


def test_run_waits_and_passes_arguments_and_status(pod):
    pod.install("program.py", "import sys; sys.stdout.write(f'{sys.argv[1:]}\\n'); sys.exit(int(sys.argv[1]))")
    done = pod("run", "program.py", "0", "--config.data.scales=(480, 512)", "it's $HOME")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(["0", "--config.data.scales=(480, 512)", "it's $HOME"])] * 2
    assert pod("run", "program.py", "3").returncode == 3


def test_start_returns_and_stop_lets_it_save(pod):
    pod.install("program.py", PROGRAM)
    done = pod("start", "program.py", "300", "a b")
    assert done.returncode == 0 and done.stdout == "", done.stderr
    wait_for(lambda: all(pod.logs()), 30)
    pids = [int((host / "detr_jax/run.pid").read_text()) for host in pod.hosts]
    assert pod.logs() == [f"{name} {pid} ['300', 'a b']\n" for name, pid in zip(HOSTS, pids, strict=True)]
    assert all(os.getsid(pid) == pid for pid in pids)  # no terminal's end reaches it
    assert pod("stop").returncode == 0
    wait_for(lambda: all("saved" in log for log in pod.logs()), 30)
    assert pod("log").stdout.count("saved") == 2
    pod("start", "program.py", "0", "again")
    wait_for(lambda: all("again" in log for log in pod.logs()), 30)
    assert all("saved" in log for log in pod.logs())  # the log goes on


@pytest.mark.parametrize("arguments", [(), ("begin",)])
def test_what_it_does_not_understand(pod, arguments):
    done = pod(*arguments)
    assert done.returncode == 1 and "setup | run ARGUMENTS" in done.stderr and done.stderr.count("\n") == 1


def test_a_slice_must_be_named(pod):
    done = pod("setup", TPU="")
    assert done.returncode == 1 and "TPU=NAME ZONE=ZONE" in done.stderr
