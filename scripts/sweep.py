"""Trains with every combination of some settings and several seeds, and says which is best, if any is.

    python scripts/sweep.py --config=configs/finetune.py:r18_c4 --config.data.name=cells --config.data.dir=data \
        --over="optim.lr=1e-4,3e-4" --over="optim.weight_decay=log(1e-5,1e-3,3)" --seeds=3 --output=runs/sweep

--config and --config.NAME=VALUE are those of `python -m detr_jax.train`. A list is values between commas, a range is
log(FIRST,LAST,COUNT) or linear(FIRST,LAST,COUNT). All settings are checked before the first run starts. Every run is a
training in a workdir of its own; the same command again keeps those that are done and continues the others. Ctrl-C
lets what is running save first. A run that fails is listed, and the exit status is 1 then.
"""

import ast
import contextlib
import itertools
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detr_jax import cli, files, invocation, signals  # noqa: E402
from detr_jax.config import Config, settings  # noqa: E402
from detr_jax.config_check import check  # noqa: E402
from detr_jax.config_forms import from_config_dict, to_dict  # noqa: E402
from detr_jax.errors import UserError  # noqa: E402
from detr_jax.evaluation import curves, overlay  # noqa: E402
from detr_jax.evaluation.run_logs import RunLog, read_run  # noqa: E402
from detr_jax.unknown_settings import describe_unknown_setting  # noqa: E402

MOST_RUNS = 10_000
SURE = 0.95  # with which a difference is more than the spread of the seeds
TICK = 0.2  # seconds between two looks at what is running
RANGE = re.compile(r"(log|linear)\(([^,]+),([^,]+),\s*(\d+)\s*\)")

Changes = dict[str, Any]  # {"optim.lr": 1e-4, ...}


class Job(NamedTuple):
    """One training."""

    workdir: Path
    changes: Changes  # without the seed
    seed: int
    config: Config

    def log(self) -> RunLog | None:
        """What it has logged; None before it has."""
        if not (self.workdir / "metrics.jsonl").exists():
            return None
        run = read_run(str(self.workdir), self.workdir.name)
        return run if run.rows else None

    def done(self) -> bool:
        """Whether it has been trained to the end, with these settings, and evaluated there."""
        with contextlib.suppress(OSError, ValueError):
            settled = json.loads((self.workdir / "config.json").read_text(encoding="utf-8"))
            if settled == json.loads(json.dumps(to_dict(self.config))) and (run := self.log()):
                steps = run.points("step", "AP")[0]
                return len(steps) > 0 and steps[-1] == run.total_steps
        return False


class Group(NamedTuple):
    """The finished runs of one combination: AP of their last evaluation."""

    changes: Changes
    scores: list[float]


def parse_values(given: str) -> tuple[str, list]:
    """The setting and the values of one --over. Raises UserError when there is no such setting, or no value."""
    name, equals, text = given.partition("=")
    name = name.strip().removeprefix("--").removeprefix("config.")
    known = {one.name: one.kind for one in settings(Config())}
    if name not in known:
        raise UserError(f"--over={given}: {describe_unknown_setting(name)}")
    if name == "seed":
        raise UserError("--over=seed: pass --seeds=N for N seeds")
    if not equals or not text.strip():
        raise UserError(f"--over={given} has no values; write it as {name}=1,2 or {name}=log(1e-5,1e-3,3)")
    if spread := RANGE.fullmatch(text.strip()):
        values = _spread(*spread.groups(), given)
        values = [round(value) for value in values] if known[name] is int else values
    else:
        values = [_literal(word) for word in re.split(r",(?![^(\[]*[)\]])", text)]
    return name, [value for i, value in enumerate(values) if value not in values[:i]]


def _spread(kind: str, first: str, last: str, count: str, given: str) -> list[float]:
    try:
        ends = float(first), float(last)
        if kind == "log" and min(ends) <= 0:
            raise UserError(f"--over={given}: a logarithmic range begins and ends above 0")
        if int(count) < 2:
            raise UserError(f"--over={given}: a range has 2 values or more")
        values = np.geomspace(*ends, int(count)) if kind == "log" else np.linspace(*ends, int(count))
    except ValueError as error:
        raise UserError(f"--over={given}: {error}") from error
    return [float(f"{value:.6g}") for value in values]


def _literal(word: str) -> object:
    try:
        return ast.literal_eval(word.strip())
    except (ValueError, SyntaxError):
        return word.strip()


def make_jobs(base: ConfigDict, over: list[str], seeds: int, sample: int | None, output: Path) -> list[Job]:
    """Every training, all seeds of the first combination first. Raises UserError for settings that cannot be."""
    values = dict(map(parse_values, over))
    if len(values) < len(over):
        raise UserError("--over names a setting twice; give all its values in one")
    if (count := math.prod(map(len, values.values())) * seeds) > MOST_RUNS and sample is None:
        raise UserError(f"these are {count} runs; pass --random=N for a sample of the combinations")
    grid = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    if sample is not None:
        grid = random.Random(0).sample(grid, min(sample, len(grid)))  # the same ones when it is typed again
    first = from_config_dict(base).seed
    jobs = []
    for changes, seed in itertools.product(grid, range(first, first + seeds)):
        config = ConfigDict(base)
        with config.ignore_type():
            config.update_from_flattened_dict(changes | {"seed": seed})
        typed = from_config_dict(config)
        check(typed)
        jobs.append(Job(output / name_of(changes | {"seed": seed}), changes, seed, typed))
    return jobs


def name_of(changes: Changes) -> str:
    """A name for a folder: lr=0.0001,seed=1."""
    return ",".join(
        f"{name.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9.+-]+', '_', str(changes[name]))}" for name in changes
    )


class Trainings:
    """Runs jobs, so many at a time, each on a device of its own if there are several."""

    def __init__(self, jobs: list[Job], given: list[str], output: Path, parallel: int):
        self._jobs, self._given, self._output = jobs, given, output
        self._devices = find_devices(parallel) if parallel > 1 else [{}]
        self._running: dict[subprocess.Popen, tuple[Job, dict, float]] = {}
        self._stopping, self._asked = False, set()
        self.failed: dict[str, str] = {}

    def run(self) -> bool:
        """Trains what is not done yet; False when it was asked to stop."""
        with signals.StopSignals(self._pass_on, at_once=self._kill) as stop:
            for number, job in enumerate(self._jobs, start=1):
                told = f"[{number}/{len(self._jobs)}] {job.workdir.name}"
                if job.done():
                    print(f"{told}: is done", flush=True)
                    continue
                while len(self._running) == len(self._devices):
                    self._look()
                if stop.received:
                    break
                self._start(job, told)
            while self._running:
                self._look()
        return not stop.received

    def _start(self, job: Job, told: str) -> None:
        busy = [device for _, device, _ in self._running.values()]
        device = next(one for one in self._devices if one not in busy)
        changes = [f"--config.{name}={value}" for name, value in [*job.changes.items(), ("seed", job.seed)]]
        command = [sys.executable, "-m", "detr_jax.train", *self._given, f"--workdir={job.workdir}", *changes]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str((self._output / "cache").absolute())
        environment = {**os.environ, "PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": cache, **device}
        job.workdir.mkdir(parents=True, exist_ok=True)
        print(f"{told}: starts", flush=True)
        with (job.workdir / "output.txt").open("a", encoding="utf-8") as output:
            process = subprocess.Popen(  # in a group of its own: Ctrl-C reaches it once, from here
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        self._running[process] = job, device, time.monotonic()
        if self._stopping:  # a signal came while it was started
            self._end(process)

    def _look(self) -> None:
        time.sleep(TICK)
        for process, (job, _, begin) in list(self._running.items()):
            if process.poll() is None:
                continue
            del self._running[process]
            seconds = f"{time.monotonic() - begin:.0f} s"
            if job.done():  # whatever became of the process afterwards
                print(f"{job.workdir.name}: AP {job.log().points('step', 'AP')[1][-1]:.3f}, {seconds}", flush=True)
            elif process.returncode and not self._stopping:
                lines = (job.workdir / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()
                self.failed[job.workdir.name] = lines[-1][:300] if lines else f"status {process.returncode}"
                print(f"{job.workdir.name}: failed after {seconds}: {self.failed[job.workdir.name]}", flush=True)
            else:
                print(f"{job.workdir.name}: stopped after {seconds}", flush=True)

    def _pass_on(self) -> None:
        self._stopping = True
        for process in list(self._running):
            self._end(process)

    def _end(self, process: subprocess.Popen) -> None:
        """Asks it to save and end, once: the second time it would end without saving."""
        if process not in self._asked:
            self._asked.add(process)
            process.terminate()

    def _kill(self) -> None:
        for process in list(self._running):
            process.kill()


def find_devices(parallel: int) -> list[dict[str, str]]:
    """What each of so many runs needs in its environment, to see one device. Asked in another process: it takes it."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UserError(f"JAX finds no device ({asked.stderr.strip().splitlines()[-1][:200]})")
    backend, count = asked.stdout.split()[-2:]
    if backend == "cpu":
        print("note: there is no GPU or TPU; the runs go one after another", flush=True)
        return [{}]
    if parallel > int(count):
        raise UserError(f"--parallel={parallel}: there are {count} devices; pass --parallel={count}")
    if backend == "tpu":
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [alone | {"TPU_VISIBLE_CHIPS": str(i)} for i in range(parallel)]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(int(count))))
    return [{"CUDA_VISIBLE_DEVICES": one} for one in seen.split(",")[:parallel]]


def group_runs(jobs: list[Job]) -> list[Group]:
    """The finished runs of each combination, the best mean first."""
    groups: dict[str, Group] = {}
    for job in jobs:
        if job.done():
            group = groups.setdefault(name_of(job.changes), Group(job.changes, []))
            group.scores.append(float(job.log().points("step", "AP")[1][-1]))
    return sorted(groups.values(), key=lambda group: -statistics.mean(group.scores))


def describe_groups(groups: list[Group]) -> str:
    """A table, the best first."""
    names = list(groups[0].changes)
    table = [[*names, "AP", "least", "most", "seeds"]]
    for group in groups:
        scores = [f"{of(group.scores):.3f}" for of in (statistics.mean, min, max)]
        table.append([*(str(group.changes[name]) for name in names), *scores, str(len(group.scores))])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in table)


def judge(groups: list[Group]) -> str:
    """Whether the best combination is better than the others, beside the spread of the seeds (Student's t, pooled)."""
    best, others = groups[0], groups[1:]
    if not others:
        return "There is one combination: nothing to compare."
    freedom = sum(len(group.scores) - 1 for group in groups)
    if not freedom:
        return (
            "Each combination was trained once: its place in this table may be the seed's doing. Pass --seeds=3, "
            "which keeps the runs that are done."
        )
    squares = sum(sum((score - statistics.mean(one.scores)) ** 2 for score in one.scores) for one in groups)
    spread, sure = math.sqrt(squares / freedom), stats.t.ppf((1 + SURE) / 2, freedom)

    def is_level(other: Group) -> bool:
        error = spread * math.sqrt(1 / len(best.scores) + 1 / len(other.scores))
        return statistics.mean(best.scores) - statistics.mean(other.scores) <= sure * error

    level = [name_of(group.changes) for group in others if is_level(group)]
    first = f"The spread of the seeds is {spread:.3f} AP (standard deviation). {name_of(best.changes)} is "
    if not level:
        return first + "better than every other combination by more than that explains."
    rest = "" if len(level) == len(others) else ", and better than the others"
    return first + f"not to be told from {'; '.join(level)}{rest}. More seeds may tell."


def write_report(jobs: list[Job], groups: list[Group], failed: dict[str, str], output: Path) -> None:
    """Writes sweep.json, sweep.csv and the curves of all runs; prints the table and what it says."""
    runs = [run for job in jobs if (run := job.log())]
    if runs:
        found = curves.compare_runs(runs)
        curves.write_curves(found, output)
        overlay.draw_runs(found, output / "curves.png")
    said = judge(groups) if groups else "No run is done yet."
    told = {
        "combinations": [{**one._asdict(), "mean": statistics.mean(one.scores)} for one in groups],
        "failed": failed,
        "said": said,
    }
    with files.replacing(output / "sweep.json") as path:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if groups:
        rows = [[*one.changes.values(), statistics.mean(one.scores), len(one.scores), *one.scores] for one in groups]
        most = max(len(one.scores) for one in groups)
        head = [*groups[0].changes, "mean", "count", *(f"AP {i + 1}" for i in range(most))]
        files.write_csv(output / "sweep.csv", [head, *rows])
        print(describe_groups(groups))
    print(said)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason} (see {output / name / 'output.txt'})")
    made = ["curves.png"] * bool(runs) + ["sweep.csv"] * bool(groups) + ["sweep.json"]
    print(f"see {output}: {', '.join(made)}")


def settings_of(words: list[str]) -> list[str]:
    """The --config.NAME=VALUE of a command line, for those of the trainings."""
    found = [word for word in words if re.match("--?config[.]", word)]
    for word in found:
        if "=" not in word:
            raise UserError(f"write {word}=VALUE, with the equals sign")
    return found


def main(argv: list[str]) -> int:
    """Trains what is not done, and reports."""
    args = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not understood; settings to vary are given as --over=NAME=VALUES")
    if not args.over or not args.output or not args.config:
        raise UserError("pass --config=FILE, --over=NAME=VALUES for each setting to vary, and --output=DIR")
    output = Path(args.output).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file; choose a folder")
    cli.config()
    jobs = make_jobs(args.config, args.over, args.seeds, args.random, output)
    given = [f"--config={flags.FLAGS['config'].config_filename}", *settings_of(sys.argv[1:])]
    print(f"{len(jobs)} runs of {len(jobs) // args.seeds} combinations of {', '.join(jobs[0].changes)}", flush=True)
    trainings = Trainings(jobs, given, output, args.parallel)
    finished = trainings.run()
    write_report(jobs, group_runs(jobs), trainings.failed, output)
    if not finished:
        print(f"stopped; this goes on: {invocation.command()}")
        return 130
    return 1 if trainings.failed else 0


def define_flags() -> None:
    """The flags of this program."""
    cli.define_config()
    flags.DEFINE_multi_string("over", None, "NAME=VALUES of a setting to vary; repeat it for a grid.")
    flags.DEFINE_integer("seeds", 1, "Seeds of each combination.", lower_bound=1)
    flags.DEFINE_integer("random", None, "Train a random sample of so many combinations.", lower_bound=1)
    flags.DEFINE_integer("parallel", 1, "Runs at a time, each on a GPU or TPU chip of its own.", lower_bound=1)
    flags.DEFINE_string("output", None, "Folder of the runs.")


if __name__ == "__main__":
    cli.run(main, define_flags)
