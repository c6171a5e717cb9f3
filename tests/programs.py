"""How the tests run the programs: as a user does, in processes of their own, on a tiny dataset and a tiny model.

All runs of a test session share one folder of compiled programs, so each is compiled once.
"""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from configs import detr as configs
from detr_jax.config import Config
from detr_jax.config_forms import from_config_dict
from detr_jax.datasets import shapes
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset

REPOSITORY = Path(__file__).parents[1]
TRAIN, VAL, SIZE = 12, 4, 64
QUERIES = 10
BROKEN = 3  # id of the image that is truncated in ``Programs.broken``
SETTINGS = {  # of the debug model, made so small that a step is milliseconds
    "model.last_stage": "layer3",
    "model.decoder_layers": 2,
    "model.num_queries": QUERIES,
    "data.scales": (64,),
    "data.max_size": 64,
    "data.buckets": ((64, 64, 8),),
    "data.threads": 1,
    "optim.schedule": "constant",
    "train.steps": 6,
    "train.checkpoint_every": 3,
    "train.eval_every": 3,
}
OPTIMISED = {"XLA_FLAGS": ""}  # for a program that computes more than it compiles
MODEL = tuple(f"--config.{name}={value}" for name, value in SETTINGS.items())
# Imports a program once and lets a fork of itself run each command: a process each, without seconds of imports each.
FORKS = """
import importlib, json, os, sys, tempfile, traceback
from detr_jax import cli
module, done = importlib.import_module(sys.argv[1]), []
for arguments in json.load(sys.stdin):
    files = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]
    child = os.fork()
    if child == 0:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.argv[1:] = arguments
        try:
            cli.run(module.main, module.define_flags, getattr(module, "VERBS", None))
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # at once: to take the interpreter apart takes longer than most commands
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.append([status] + [file.seek(0) or file.read() for file in files])
json.dump(done, sys.stdout)
"""


class Programs:
    """Runs programs of the package; ``folder`` holds what they share.

    Attributes:
      raw: the COCO folder of the tiny dataset; data: the folder where it is prepared, as ``tiny``.
    """

    def __init__(self, folder: Path):
        self.folder, self.raw, self.data = folder, folder / "raw", folder / "data"
        self._started: list[subprocess.Popen] = []
        shapes.write(self.raw, shapes.Settings(train=TRAIN, val=VAL, size=SIZE, max_objects=3))
        prepare_dataset(find_splits(self.raw), self.data, "tiny")

    def environment(self, **changes: object) -> dict[str, str]:
        """The environment of a program: one device, unless ``changes`` say otherwise."""
        ours = {
            "JAX_COMPILATION_CACHE_DIR": self.folder / "cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": REPOSITORY,
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
        return inherited | {key: str(value) for key, value in (ours | changes).items()}

    def training(self, workdir: Path, *more: str) -> list[str]:
        """Arguments that train the tiny model."""
        data = ("--config.data.name=tiny", f"--config.data.dir={self.data}")
        return ["--config=configs/detr.py:debug", f"--workdir={workdir}", *MODEL, *data, *more]

    def config(self, changes: Mapping[str, Any] | None = None) -> Config:
        """The settings of the tiny model as a record, some of them changed: {"train.steps": 3, ...}."""
        settings = configs.get_config("debug")
        data = {"data.name": "tiny", "data.dir": str(self.data)}
        settings.update_from_flattened_dict({**SETTINGS, **data, **(changes or {})})
        return from_config_dict(settings)

    def start(self, verb: str, *arguments: object, **environment: object) -> subprocess.Popen:
        """Starts ``python -m detr_jax.VERB`` and returns at once."""
        return self.launch("-m", f"detr_jax.{verb}", *arguments, **environment)

    def start_changed(self, change: str, *arguments: object, **environment: object) -> subprocess.Popen:
        """The same for the training program, after this Python code has changed something of the package."""
        program = self.folder / f"changed_{len(self._started)}.py"
        program.write_text(f"{change}\nfrom detr_jax import cli, train\ncli.run(train.main, train.define_flags)")
        return self.launch(program, *arguments, **environment)

    def launch(self, *words: object, **environment: object) -> subprocess.Popen:
        """Starts Python with these words and returns at once."""
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=REPOSITORY,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Kills what a test that failed has left running."""
        while self._started:
            self._started.pop().kill()

    def start_hosts(self, count: int, verb: str, *arguments: object) -> list[subprocess.Popen]:
        """Starts so many processes of one program that find each other, with a device each."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": count, "JAX_NUM_CPU_DEVICES": 1}
        return [self.start(verb, *arguments, JAX_PROCESS_ID=process, **hosts) for process in range(count)]

    def run(self, verb: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess:
        """Runs it to its end."""
        process = self.start(verb, *arguments, **environment)
        out, err = process.communicate(timeout=1200)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def go_on(self, workdir: Path, *more: str) -> str:
        """Trains the tiny model in this workdir to the end, from where it stands: what the program printed."""
        done = self.run("train", *self.training(workdir, *more))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_all(self, verb: str, commands: list[list[str]]) -> list[subprocess.CompletedProcess]:
        """Runs the program once for each list of arguments, one after the other."""
        done = subprocess.run(
            [sys.executable, "-c", FORKS, f"detr_jax.{verb}"],
            cwd=REPOSITORY,
            env=self.environment(),
            input=json.dumps([list(map(str, command)) for command in commands]),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        answers = zip(commands, json.loads(done.stdout), strict=True)
        return [subprocess.CompletedProcess(command, *answer) for command, answer in answers]

    @functools.cached_property
    def broken(self) -> dict[str, Any]:
        """Settings of the tiny dataset with a truncated training image, which has the id that ``BROKEN`` says."""
        root = self.folder / "with_broken"
        shutil.copytree(self.raw, root)
        image = root / f"train2017/{BROKEN:06d}.jpg"
        image.write_bytes(image.read_bytes()[:-200])
        prepare_dataset(find_splits(root), self.data, "broken", quick=True)
        return {"data.name": "broken", "data.max_bad_images": 0.1}

    @functools.cached_property
    def trained(self) -> Path:
        """The workdir of an unbroken run of six steps."""
        workdir = self.folder / "straight"
        done = self.run("train", *self.training(workdir))
        assert done.returncode == 0, done.stderr
        (workdir / "stdout").write_text(done.stdout)
        (workdir / "stderr").write_text(done.stderr)
        return workdir


def rows(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def numbers(workdir: Path) -> list[dict]:
    """The rows without what depends on the clock."""
    clock = {"images_per_second", "data_wait", "device_memory"}
    return [{key: value for key, value in row.items() if key not in clock} for row in rows(workdir)]


def evaluations(workdir: Path) -> list[list[float]]:
    """COCO's twelve numbers of every evaluation."""
    return [row["coco_eval_bbox"] for row in rows(workdir) if "coco_eval_bbox" in row]


def last_logged(workdir: Path) -> int:
    """The last step in metrics.jsonl of a run that may still be going on; 0 while there is hardly one."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # on a full disk the last one is cut
    return json.loads(whole[-1])["step"] if len(whole) > 1 else 0


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints, in order."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    """Returns as soon as the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def finish(process: subprocess.Popen, seconds: float = 300.0) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a program at its end; one that does not end is killed."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def assert_refused(done: subprocess.CompletedProcess, output: Path, *words: str, listed: bool = False) -> None:
    """The program said these words in one sentence and wrote nothing; with ``listed``, it named files before that."""
    if listed:
        done.stderr = done.stderr.splitlines(keepends=True)[-1]
    assert_one_sentence(done, *words)
    assert not output.exists()


def said(out: str) -> list[str]:
    """The lines that a program printed, without those of the library that connects processes."""
    return [line for line in out.splitlines() if "[Gloo]" not in line]


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint: the model's, the optimizer's, the counters."""
    found, reader = {}, ocp.PyTreeCheckpointer()
    for item in ("model", "averaged", "progress"):
        if (checkpoint / item).is_dir():
            tree = reader.metadata(checkpoint / item).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            for path, leaf in jax.tree.leaves_with_path(reader.restore(checkpoint / item, restore_args=as_numpy)):
                found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def assert_same_state(one: Path, other: Path, step: int) -> None:
    """Every array of that step's checkpoint is equal to the last bit in two workdirs."""
    ours, theirs = (arrays(workdir / "checkpoints" / str(step)) for workdir in (one, other))
    assert ours.keys() == theirs.keys() and len(ours) > 100
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def assert_close_losses(one: Path, other: Path, tolerance: float) -> None:
    """The losses of two runs agree step by step, relatively."""
    ours, theirs = ([row for row in rows(workdir) if "loss" in row] for workdir in (one, other))
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs, strict=True):
        assert abs(a["loss"] - b["loss"]) <= tolerance * abs(b["loss"]), a["step"]


def assert_one_sentence(done: subprocess.CompletedProcess, *words: str) -> None:
    """The program ended with status 1 and one line on standard error that holds these words."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, (word, done.stderr)
