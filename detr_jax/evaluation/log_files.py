"""The files in which programs log a training, as rows: JSON lines, CSV, TensorBoard's event files."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from detr_jax.errors import UserError

try:
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util
except ImportError:  # only event files cannot be read then
    event_accumulator = None

EVENTS = "events.out.tfevents."
FILES = ("metrics.jsonl", "log.txt", "results.csv", "metrics.csv", "metrics.json", "trainer_state.json")

Row = dict[str, Any]


def find_log(path: Path) -> Path | None:
    """The log at a path: a file, or a folder that holds event files; None where there is none."""
    if path.is_file():
        return path
    named = [path / name for name in FILES if (path / name).is_file()]
    folders = [folder for folder in (path, path / "tb") if any(folder.glob(f"{EVENTS}*"))]
    return next(iter(named + folders), None)


def read_log(log: Path, place: str) -> tuple[list[Row], list[str]]:
    """The rows of a log as they stand there, and sentences about what could not be read.

    Args:
      log: from ``find_log``.
      place: its name in messages.

    Raises UserError when it is no log.
    """
    if log.is_dir() or log.name.startswith(EVENTS):
        return _read_events(log, place), []
    try:
        text = log.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from error
    if log.suffix == ".csv":
        return _read_table(text, place), []
    if log.name == "trainer_state.json":
        return _read_trainer_state(text, place), []
    return _read_lines(text, place)


def _read_lines(text: str, place: str) -> tuple[list[Row], list[str]]:
    """JSON lines. A last line that is half-written is that of a run that was killed, or is writing it now."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged.append(number)
    if damaged and not rows and len(lines) > 1 or (lines and not rows and not lines[0].startswith("{")):
        raise UserError(f"{place} is no log: line 1 is no JSON object ({lines[0][:40]!r})")
    if damaged and damaged != [len(lines)]:
        return rows, [f"{place}: {len(damaged)} of {len(lines)} lines are damaged and left out (line {damaged[0]})"]
    return rows, []


def _read_table(text: str, place: str) -> list[Row]:
    lines = text.replace("\0", "").splitlines()
    try:
        dialect = csv.Sniffer().sniff(lines[0], ",;\t") if lines else csv.excel
    except csv.Error:
        dialect = csv.excel
    try:
        table = list(csv.DictReader(lines, dialect=dialect))
    except csv.Error as error:
        raise UserError(f"{place} is no CSV table: {error}") from error
    return [{key.strip(): value for key, value in row.items() if key and value is not None} for row in table]


def _read_trainer_state(text: str, place: str) -> list[Row]:
    try:
        return [dict(row) for row in json.loads(text)["log_history"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{place} has no log_history, as the trainer_state.json of transformers has") from error


def _read_events(log: Path, place: str) -> list[Row]:
    """Scalars, one row a step; what a run wrote after the step where it was continued is left out."""
    if event_accumulator is None:
        raise UserError(f"{place} holds event files; to read them: pip install tensorboard")
    events = event_accumulator.EventAccumulator(str(log), size_guidance={"scalars": 0, "tensors": 0})
    try:
        events.Reload()
    except Exception as error:  # whatever protobuf and tensorboard raise
        raise UserError(f"{place} is no event file of TensorBoard ({type(error).__name__})") from error
    rows: dict[int, Row] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            rows.setdefault(event.step, {"step": event.step, "wall_time": event.wall_time})[tag] = event.value
    for tag in events.Tags()["tensors"]:  # TensorFlow 2 and CLU write scalars as tensors
        for event in events.Tensors(tag):
            if (
                math.prod(side.size for side in event.tensor_proto.tensor_shape.dim) == 1
                and event.tensor_proto.dtype < 3
            ):
                value = tensor_util.make_ndarray(event.tensor_proto).item()
                rows.setdefault(event.step, {"step": event.step, "wall_time": event.wall_time})[tag] = value
    return [rows[step] for step in sorted(rows)]
