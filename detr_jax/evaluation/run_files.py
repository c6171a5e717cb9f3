"""What a training left in its workdir, as records. A file that is missing or damaged costs only what it would tell."""

import contextlib
import datetime
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from detr_jax.config import Config
from detr_jax.config_forms import from_dict
from detr_jax.errors import UserError
from detr_jax.evaluation.coco_eval import NAMES, ClassMetrics
from detr_jax.evaluation.log_files import read_log
from detr_jax.evaluation.patience import Patience
from detr_jax.evaluation.results import is_number

STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  (.*)")  # of a line of train.log; lines without one go on
START = re.compile(r"(?:starts|continues) at step (\d+) of (\d+): (.*)")
WEIGHTS = re.compile(r"(?:backbone )?weights from ")


class Session(NamedTuple):
    """One start of a run and what followed. What the files do not tell is None, or empty."""

    step: int
    total_steps: int | None
    command: str
    begin: datetime.datetime | None
    end: datetime.datetime | None  # of its last line in train.log
    last_words: str  # that line
    record: dict[str, Any]  # of run.json

    @property
    def seconds(self) -> float | None:
        """From its first line to its last."""
        return max((self.end - self.begin).total_seconds(), 0.0) if self.begin and self.end else None


class Evaluation(NamedTuple):
    """COCO's twelve numbers after a step; -1 for what does not exist."""

    step: int
    numbers: list[float | int]
    by_class: dict[str, float | int]  # AP of the classes that have objects

    @property
    def AP(self) -> float | int:
        """The first of the numbers."""
        return self.numbers[0]

    @property
    def AP50(self) -> float | int:
        """The second."""
        return self.numbers[1]


class RunFiles(NamedTuple):
    """A workdir.

    Attributes:
      config: None where config.json cannot be read.
      rows: of metrics.jsonl, those with a step, in its order.
      sessions: the starts, in the order of time.
      loaded: what train.log says of the weights that the run began with.
      notes: sentences about files that could not be read.
    """

    folder: Path
    config: Config | None
    rows: list[dict[str, Any]]
    sessions: list[Session]
    loaded: list[str]
    notes: list[str]

    @property
    def evaluations(self) -> list[Evaluation]:
        """In the order of their steps."""
        found = [_evaluation(row) for row in self.rows if is_evaluation(row)]
        return sorted(found, key=lambda one: one.step)

    @property
    def best(self) -> Evaluation | None:
        """That of ``checkpoints/best`` or, where there is no such link, the last with the highest AP."""
        named = (self.folder / "checkpoints" / "best").resolve().name
        found = self.evaluations
        linked = [one for one in found if str(one.step) == named]
        return max(linked or found, key=lambda one: (one.AP, one.step), default=None)

    @property
    def last_step(self) -> int:
        """The last one that is logged."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def total_steps(self) -> int | None:
        """How many the run shall have; None where nothing tells."""
        known = [one.total_steps for one in self.sessions if one.total_steps]
        return known[-1] if known else (self.config.train.steps or None) if self.config else None

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or ``train.patience`` has ended it."""
        return self._is_complete or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether ``train.patience`` has ended it."""
        most = self.config.train.patience if self.config else 0
        return not self._is_complete and Patience(most, {one.step: one.AP for one in self.evaluations}).over

    @property
    def _is_complete(self) -> bool:
        return self.total_steps is not None and self.last_step >= self.total_steps

    @property
    def seconds(self) -> float | None:
        """Of all sessions, from start to end; without the pauses between them."""
        known = [one.seconds for one in self.sessions if one.seconds is not None]
        return sum(known) if known else None

    def find_sample(self) -> Path | None:
        """The newest of the pictures of validation images."""
        return max(self.folder.glob("samples/step_*.png"), key=lambda path: path.name, default=None)


def read_run_files(folder: Path) -> RunFiles:
    """Reads a workdir. Raises UserError when it is none."""
    if not (folder / "config.json").is_file() and not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder} holds neither config.json nor metrics.jsonl; pass the workdir of a training")
    notes: list[str] = []
    entries = _read_entries(folder / "train.log")
    starts = _read_starts(folder / "run.json", notes)
    loaded = dict.fromkeys(text for _, text in entries if WEIGHTS.match(text))
    return RunFiles(
        folder,
        _read_config(folder / "config.json", notes),
        _read_rows(folder / "metrics.jsonl", notes),
        _join_sessions(_list_sessions(entries), starts),
        list(loaded),
        notes,
    )


def is_evaluation(row: dict[str, Any]) -> bool:
    """Whether a row of metrics.jsonl holds COCO's twelve numbers."""
    numbers = row.get("coco_eval_bbox")
    return isinstance(numbers, list) and len(numbers) == len(NAMES) and all(map(is_number, numbers))


def read_class_metrics(path: Path) -> list[ClassMetrics]:
    """The classes of a metrics.json; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        rows = json.loads(path.read_text(encoding="utf-8"))["classes"]
        found = [ClassMetrics(**{name: row[name] for name in ClassMetrics._fields}) for row in rows]
        if all(is_number(value) for one in found for value in (*one[2:],)):
            return [one._replace(name=str(one.name)) for one in found]
    return []


def _evaluation(row: dict[str, Any]) -> Evaluation:
    by_class = row.get("AP_per_class")
    by_class = by_class if isinstance(by_class, dict) else {}
    return Evaluation(row["step"], row["coco_eval_bbox"], {name: AP for name, AP in by_class.items() if is_number(AP)})


def _read_config(path: Path, notes: list[str]) -> Config | None:
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, UserError) as error:
        notes.append(f"config.json cannot be read ({error}), so the settings and the data are not shown.")
        return None


def _read_rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        notes.append("There is no metrics.jsonl: nothing has been logged yet.")
        return []
    try:
        rows, said = read_log(path, path.name)
    except UserError as error:
        rows, said = [], [str(error)]
    notes += [f"{one}." for one in said]
    return [row for row in rows if isinstance(row.get("step"), int)]


def _read_starts(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [start for start in starts if isinstance(start, dict)]
    except (OSError, ValueError, TypeError, KeyError):
        notes.append("run.json cannot be read, so versions and devices are not known.")
        return []


def _read_entries(path: Path) -> list[tuple[datetime.datetime, str]]:
    """The entries of train.log: when, and a text of one line or several."""
    entries: list[tuple[datetime.datetime, str]] = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := STAMP.fullmatch(line):
                with contextlib.suppress(ValueError):
                    entries.append((datetime.datetime.fromisoformat(match[1]), match[2]))
            elif entries:
                entries[-1] = entries[-1][0], f"{entries[-1][1]}\n{line}"
    return entries


def _list_sessions(entries: list[tuple[datetime.datetime, str]]) -> list[Session]:
    sessions: list[Session] = []
    for time, text in entries:
        if match := START.fullmatch(text):
            sessions.append(Session(int(match[1]), int(match[2]), match[3], time, time, text, {}))
        elif sessions:
            sessions[-1] = sessions[-1]._replace(end=time, last_words=text)
    return sessions


def _join_sessions(logged: list[Session], starts: list[dict[str, Any]]) -> list[Session]:
    """The sessions of train.log with the starts of run.json, which are as many unless one of the files was lost."""
    missing = len(starts) - len(logged)
    alone = [_session_of(start) for start in starts[: max(missing, 0)]]
    records = starts[max(missing, 0) :]
    first = len(logged) - len(records)
    joined = [one._replace(record=record) for one, record in zip(logged[first:], records, strict=True)]
    return [*alone, *logged[:first], *joined]


def _session_of(start: dict[str, Any]) -> Session:
    begin = None
    with contextlib.suppress(TypeError, ValueError):
        begin = datetime.datetime.fromisoformat(start["time"]).replace(tzinfo=None)
    step = start.get("step")
    return Session(step if isinstance(step, int) else 0, None, str(start.get("command", "")), begin, None, "", start)
