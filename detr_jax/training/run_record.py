"""What a run is started with: versions, devices, command. ``run.json`` holds it for every start."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import jax

from detr_jax import files, invocation

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pycocotools", "tensorflow-datasets")


def installed_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """The version of each package; None where it is not installed."""
    return {name: _version(name) for name in packages}


def describe_devices() -> list[str]:
    """Kind and platform of every device of all hosts."""
    return [f"{device.device_kind} ({device.platform})" for device in jax.devices()]


def describe_start(step: int) -> dict:
    """One entry of ``run.json``: when, from which step, with which command, versions and devices."""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "step": step,
        "command": invocation.command(),
        "git": _git_commit(),
        "python": platform.python_version(),
        "packages": installed_versions(),
        "host": platform.node(),
        "hosts": jax.process_count(),
        "devices": describe_devices(),
        "cpu_cores": os.cpu_count(),
        "weights_sha256": {},
    }


def read_starts(path: Path) -> list[dict]:
    """The starts that a ``run.json`` lists; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []


def write_starts(path: Path, starts: list[dict]) -> None:
    """Writes ``run.json``."""
    with files.replacing(path) as sibling:
        sibling.write_text(json.dumps({"starts": starts}, indent=1) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that the package runs from, "-dirty" when changed; None if it is not a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
