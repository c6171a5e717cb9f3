"""What goes into the Docker image, who runs in it, and when its health check calls a training ill."""

import fnmatch
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.programs import REPOSITORY

DOCKER = REPOSITORY / "scripts/docker"
INSTRUCTIONS = [
    line.split(maxsplit=1) for line in (DOCKER / "Dockerfile").read_text().splitlines() if re.match(r"[A-Z]+ ", line)
]
SPEC = importlib.util.spec_from_file_location("health", DOCKER / "health.py")
health = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(health)


def values(instruction: str) -> list[str]:
    return [value for name, value in INSTRUCTIONS if name == instruction]


def test_the_base_is_one_version():
    (base,) = values("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)


def test_one_python_everywhere():
    """The image, Conda's environment and the TPU hosts have a Python that the project supports, the same."""
    base = re.match(r"python:(3\.\d+)", values("FROM")[0])[1]
    conda = yaml.safe_load((REPOSITORY / "scripts/environment.yml").read_text())
    hosts = re.findall(r"--python=(\S+)", (REPOSITORY / "scripts/tpu_pod.sh").read_text())
    assert f"python={base}" in conda["dependencies"] and hosts == [base]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"{base}.9" in SpecifierSet(project["requires-python"])


def test_conda_installs_the_requirements():
    """pip resolves the path from the folder of the file, in which conda runs it."""
    conda = yaml.safe_load((REPOSITORY / "scripts/environment.yml").read_text())
    (pip,) = (part["pip"] for part in conda["dependencies"] if isinstance(part, dict))
    (line,) = pip
    assert (REPOSITORY / "scripts" / line.removeprefix("-r ")).resolve() == REPOSITORY / "requirements.txt"


def test_nobody_is_root_and_nothing_is_secret():
    assert values("USER") == ["1000:1000"]
    names = [name for name, _ in INSTRUCTIONS]
    assert names.index("USER") > max(number for number, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "ADD" not in names and values("ARG") == ["JAX=jax"]


def test_the_build_sees_what_it_copies_and_no_more():
    lines = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"  # everything else is left out
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    sources = [value.rsplit(maxsplit=1)[0] for value in values("COPY")]
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert any(fnmatch.fnmatch(source, name) or fnmatch.fnmatch(f"{source}/x.py", name) for name in allowed), source
    assert {name.split("/*")[0] for name in allowed} == set(sources)


def test_the_programs_run_from_what_is_copied(tmp_path):
    """The files of the image alone are enough for its default command to start."""
    for value in values("COPY"):
        source, target = value.split()
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        place = tmp_path / target / source.rsplit("/", 1)[-1] if target.endswith(("/", ".")) else tmp_path / target
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(REPOSITORY / source)
    assert values("ENTRYPOINT") == ['["python", "-m"]'] and values("CMD") == ['["detr_jax.doctor"]']
    done = subprocess.run(
        [sys.executable, "-m", "detr_jax.doctor", "--help"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert "Flags:" in done.stdout, done.stderr
    check = re.search(r"CMD \[\"python\", \"(.*)\"\]", values("HEALTHCHECK")[0])[1]
    assert (tmp_path / check).exists()


@pytest.mark.parametrize(
    ("command", "workdir"),
    [
        (["python", "-m", "detr_jax.train", "--config=a", "--workdir=runs/a b"], Path("runs/a b")),
        (["/sbin/docker-init", "--", "python", "-m", "detr_jax.train", "--workdir", "runs/a"], Path("runs/a")),
        (["python", "-m", "detr_jax.train", "--workdir=gs://bucket/run"], None),
        (["python", "-m", "detr_jax.evaluate", "--workdir=runs/a"], None),
        (["python", "-m", "detr_jax.train"], None),
    ],
)
def test_the_workdir_of_a_command(command, workdir):
    assert health.find_workdir(command) == workdir


def test_a_training_is_as_old_as_its_last_word(tmp_path):
    process, workdir, now = tmp_path / "process", tmp_path / "run", 1e9
    process.mkdir()
    (process / "cmdline").write_text("\0".join(["python", "-m", "detr_jax.train", f"--workdir={workdir}", ""]))
    os.utime(process, (now - 100, now - 100))
    assert health.seconds_idle(process, now) == 100  # it has only started
    workdir.mkdir()
    for name, age in {"train.log": 5000, "metrics.jsonl": 7}.items():
        (workdir / name).touch()
        os.utime(workdir / name, (now - age, now - age))
    assert health.seconds_idle(process, now) == 7
    assert health.seconds_idle(process, now + 10_000) == pytest.approx(10_007)
    (process / "cmdline").write_text("python\0-m\0detr_jax.doctor\0")
    assert health.seconds_idle(process, now) == 0


def test_the_check_runs_without_the_package():
    done = subprocess.run([sys.executable, "-S", DOCKER / "health.py"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
