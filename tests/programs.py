"""How the tests run the programs: as a user does, in processes of their own, on a tiny dataset and a tiny model.

All runs of a test session share one folder of compiled programs, so each is compiled once.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from detr_jax.datasets import shapes
from detr_jax.datasets.folders import find_splits
from detr_jax.datasets.prepare import prepare_dataset

REPOSITORY = Path(__file__).parents[1]
TRAIN, VAL, SIZE = 12, 4, 64
QUERIES = 10
MODEL = (  # small enough that a step is milliseconds
    "--config.model.last_stage=layer3",
    "--config.model.decoder_layers=2",
    f"--config.model.num_queries={QUERIES}",
    "--config.data.scales=(64,)",
    "--config.data.max_size=64",
    "--config.data.buckets=((64,64,8),)",
    "--config.data.threads=1",
    "--config.optim.schedule=constant",
    "--config.train.steps=6",
    "--config.train.checkpoint_every=3",
    "--config.train.eval_every=3",
)
# Imports a program once and lets a fork of itself run each command: a process each, without seconds of imports each.
FORKS = """
import importlib, json, os, sys, tempfile
from detr_jax import cli
module, done = importlib.import_module(sys.argv[1]), []
for arguments in json.load(sys.stdin):
    files = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]
    child = os.fork()
    if child == 0:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.argv[1:] = arguments
        cli.run(module.main, module.define_flags)
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
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
        return inherited | {key: str(value) for key, value in (ours | changes).items()}

    def training(self, workdir: Path, *more: str) -> list[str]:
        """Arguments that train the tiny model."""
        data = ("--config.data.name=tiny", f"--config.data.dir={self.data}")
        return ["--config=configs/detr.py:debug", f"--workdir={workdir}", *MODEL, *data, *more]

    def start(self, verb: str, *arguments: object, **environment: object) -> subprocess.Popen:
        """Starts ``python -m detr_jax.VERB`` and returns at once."""
        return subprocess.Popen(
            [sys.executable, "-m", f"detr_jax.{verb}", *map(str, arguments)],
            cwd=REPOSITORY,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess:
        """Runs it to its end."""
        process = self.start(verb, *arguments, **environment)
        out, err = process.communicate(timeout=500)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run_all(self, verb: str, commands: list[list[str]]) -> list[subprocess.CompletedProcess]:
        """Runs the program once for each list of arguments, one after the other."""
        done = subprocess.run(
            [sys.executable, "-c", FORKS, f"detr_jax.{verb}"],
            cwd=REPOSITORY,
            env=self.environment(),
            input=json.dumps([list(map(str, command)) for command in commands]),
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        answers = zip(commands, json.loads(done.stdout), strict=True)
        return [subprocess.CompletedProcess(command, *answer) for command, answer in answers]

    @functools.cached_property
    def trained(self) -> Path:
        """The workdir of an unbroken run of six steps."""
        workdir = self.folder / "straight"
        done = self.run("train", *self.training(workdir))
        assert done.returncode == 0, done.stderr
        (workdir / "stdout").write_text(done.stdout)
        (workdir / "stderr").write_text(done.stderr)
        return workdir


_of_folder = functools.cache(Programs)


def of_session(tmp_path_factory) -> Programs:
    """The one ``Programs`` of a test session, whichever file asks first."""
    return _of_folder(tmp_path_factory.getbasetemp() / "programs")


def rows(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def numbers(workdir: Path) -> list[dict]:
    """The rows without what depends on the clock."""
    clock = {"images_per_second", "data_wait", "device_memory"}
    return [{key: value for key, value in row.items() if key not in clock} for row in rows(workdir)]


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


def assert_one_sentence(done: subprocess.CompletedProcess, *words: str) -> None:
    """The program ended with status 1 and one line on standard error that holds these words."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, (word, done.stderr)
