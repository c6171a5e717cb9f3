"""The files that tell what a run does; nothing else writes them.

    config.json    the settings of the run
    run.json       every start of it: when, with which command, versions, devices
    train.log      what a person reads, one line a row
    metrics.jsonl  one JSON object a row; a number that is not finite is null, for JSON has no NaN
    metrics.csv    the same rows as a table
    tb/            the same rows for TensorBoard
    curves.png     the same rows as a picture; curves_per_class.png: AP of each class

A training row has ``step``, ``loss`` and whatever else the step measures; an evaluation row has ``step``,
``coco_eval_bbox``, COCO's twelve numbers, and ``AP_per_class``, AP by the name of the class, which is in no table.
Every row is on its way to the disk when ``write`` returns, and ``metrics.csv`` and ``curves.png`` can be made from
``metrics.jsonl`` alone: a run killed at any moment loses nothing.
"""

import contextlib
import csv
import datetime
import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from detr_jax import files, invocation
from detr_jax.config import Config, settings
from detr_jax.config_forms import as_flags, to_dict
from detr_jax.evaluation import plots
from detr_jax.evaluation.class_table import format_ends
from detr_jax.evaluation.symptoms import Course, find_symptoms
from detr_jax.training import run_record
from detr_jax.training.log_rows import as_bar_text, as_columns, as_line, as_plain, compare_average
from detr_jax.training.trackers import open_tracker

try:
    import tensorboardX
except ImportError:  # only tb/ is missing then
    tensorboardX = None

CURVES_EVERY = 30.0  # seconds at least between two curves.png, ...
CURVES_SHARE = 0.02  # ... and so many that drawing takes at most this share of the time
LOOK_EVERY = 20  # rows between two looks for symptoms, besides evaluations


class Logbook:
    """Opens the files of a workdir; on every process but the first it does nothing."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        config: Config,
        *,
        step: int = 0,
        steps: int,
        notes: Sequence[str] = (),
        course: Course | None = None,
        writes: bool | None = None,
        terminal: bool | None = None,
    ):
        """Starts or continues a run.

        Args:
            workdir: made if missing.
            config: the settings, for config.json.
            step: where the run goes on; rows of later steps, left by a run that was killed after its last
                checkpoint, are dropped, so that the files equal those of an unbroken run.
            steps: how many the run will have.
            notes: sentences for the beginning of train.log.
            course: what is known of the run, to tell what looks wrong; None: nothing is told.
            writes: whether this process writes; by default only process 0 does.
            terminal: whether to show a progress bar; by default if standard error is a terminal.
        """
        self._writes = jax.process_index() == 0 if writes is None else writes
        self._rows: list[dict] = []
        self._course, self._told, self._newest, self._doing = course, set(), {}, ""
        if not self._writes:
            return
        self._dir = Path(workdir)
        self._dir.mkdir(parents=True, exist_ok=True)
        files.remove_partial(self._dir)
        self._first_step, self._steps, self._started = step, steps, time.monotonic()
        self._curves_at, self._curves_took = time.monotonic(), 0.0

        self._rows = _read_rows(self._dir / "metrics.jsonl", last_step=step)
        _write_lines(self._dir / "metrics.jsonl", map(json.dumps, self._rows))
        self._jsonl = (self._dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._columns = {column: None for row in self._rows for column in as_columns(row)}  # a dict: an ordered set
        self._csv = self._new_csv()
        self._log = (self._dir / "train.log").open("a", encoding="utf-8", errors="backslashreplace")
        if self._log.tell() and not (self._dir / "train.log").read_bytes().endswith(b"\n"):
            self._log.write("\n")  # ends the line that a killed process left half-written
        self._tb = None
        if tensorboardX is not None:
            # purge_step hides what a killed run wrote after its last checkpoint
            self._tb = tensorboardX.SummaryWriter(str(self._dir / "tb"), purge_step=step + 1 if step else None)
        flat_settings = {one.name: one.value for one in settings(config)}
        self._tracker = open_tracker(config.train.tracker, self._dir, flat_settings, self.say)
        if terminal is None:
            terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True) if terminal else None

        _write_lines(self._dir / "config.json", [json.dumps(to_dict(config), indent=1)])
        self._starts = [*run_record.read_starts(self._dir / "run.json"), run_record.describe_start(step)]
        run_record.write_starts(self._dir / "run.json", self._starts)
        self.say(f"{'continues at' if step else 'starts at'} step {step} of {steps}: {invocation.command()}")
        for note in notes:
            self.say(f"note: {note}")

    @property
    def scores(self) -> dict[int, float]:
        """AP of the evaluations that the log holds, by step."""
        return {row["step"]: row["coco_eval_bbox"][0] for row in self._rows if row.get("coco_eval_bbox")}

    def record_weights(self, reports: Sequence[str], digests: dict[str, str]) -> None:
        """Says what was loaded of the weights that the run starts from; their sha256 goes into ``run.json``."""
        for report in reports:
            self.say(report)
        if self._writes:
            self._starts[-1]["weights_sha256"] = digests
            run_record.write_starts(self._dir / "run.json", self._starts)

    def write(self, row: dict) -> None:
        """Adds one row, with its ``step``, to every file. Values may be JAX or numpy scalars; they are fetched here."""
        if not self._writes:
            return
        line = as_line(row)
        row = {key: as_plain(value) for key, value in row.items()}
        self._rows.append(row)
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        flat = as_columns(row)
        if flat.keys() <= self._columns.keys():
            csv.DictWriter(self._csv, self._columns).writerow(flat)
            self._csv.flush()
        else:
            self._columns.update(dict.fromkeys(flat))
            self._csv.close()
            self._csv = self._new_csv()
        numbers = {key: value for key, value in flat.items() if isinstance(value, int | float) and key != "step"}
        if self._tb is not None:
            for key, value in numbers.items():
                self._tb.add_scalar(key, value, row["step"])
        if self._tracker is not None:
            self._tracker.write(row["step"], numbers)
        evaluation = "coco_eval_bbox" in row
        if self._bar is None:
            line += self._time_left(row["step"])
        else:
            self._bar.n = row["step"]
            self._newest |= row
            self._bar.set_postfix_str(as_bar_text(self._newest), refresh=True)
        self.say(line, echo=self._bar is None or evaluation)
        if row.get("AP_per_class"):
            self.say(f"step {row['step']}  {format_ends(row['AP_per_class'])}")
        if row.get("coco_eval_bbox_plain"):
            self.say(f"step {row['step']}  {compare_average(row)}")
        if evaluation or len(self._rows) % LOOK_EVERY == 0:
            self._tell_symptoms()
        if evaluation:
            plots.class_curves(self._rows, self._dir / "curves_per_class.png")
        pause = max(CURVES_EVERY, self._curves_took / CURVES_SHARE)
        if evaluation or time.monotonic() - self._curves_at > pause:
            self._draw_curves()

    def advance(self, step: int, doing: str = "") -> None:
        """Moves the progress bar, where there is one, to a step; ``doing`` says what is done besides training."""
        if not self._writes or self._bar is None:
            return
        if doing != self._doing:
            self._doing = doing
            self._bar.set_description_str(doing)
        self._bar.update(step - self._bar.n)

    def _tell_symptoms(self) -> None:
        """Says what looks wrong, each thing once."""
        for symptom in find_symptoms(self._rows, self._course) if self._course else ():
            if symptom.name not in self._told:
                self._told.add(symptom.name)
                self.say(as_flags(f"{symptom.name}: {symptom.text}"))

    def check(self) -> None:
        """Raises FileNotFoundError where the files were removed: what is written into them would be lost."""
        if not self._is_there():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._dir))

    def say(self, text: str, echo: bool = True) -> None:
        """Adds a line to train.log and, unless ``echo`` is False, shows it."""
        if not self._writes:
            return
        self._log.write(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")  # at once: threads speak, too
        self._log.flush()
        if echo:
            tqdm.write(text, file=sys.stdout)  # above the bar, if there is one
            sys.stdout.flush()

    def close(self) -> None:
        """Draws the curves a last time and closes the files."""
        if not self._writes:
            return
        if self._is_there():
            self._draw_curves()
        for file in (self._tracker, self._jsonl, self._csv, self._log, self._tb, self._bar):
            if file is not None:
                file.close()

    def _is_there(self) -> bool:
        return not self._writes or (self._dir / "metrics.jsonl").exists()  # made once, and by nobody else

    def _draw_curves(self) -> None:
        begin = time.monotonic()
        plots.training_curves(self._rows, self._dir / "curves.png")
        self._curves_at = time.monotonic()
        self._curves_took = self._curves_at - begin

    def _new_csv(self):
        """Writes metrics.csv anew with the columns known now, and opens it to go on."""
        with files.replacing(self._dir / "metrics.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self._columns)
            if self._columns:
                table.writeheader()
            table.writerows(map(as_columns, self._rows))
        return (self._dir / "metrics.csv").open("a", newline="", encoding="utf-8")

    def _time_left(self, step: int) -> str:
        done = step - self._first_step
        if done <= 0 or step >= self._steps:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self._steps - step)
        return f"  left {datetime.timedelta(seconds=round(seconds))}"

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _read_rows(path: Path, last_step: int) -> list[dict]:
    """The rows up to a step. What is none, such as a line that a killed process left half-written, is skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            if row["step"] <= last_step:
                rows.append(row)
    return rows


def _write_lines(path: Path, lines) -> None:
    with files.replacing(path) as sibling:
        sibling.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
