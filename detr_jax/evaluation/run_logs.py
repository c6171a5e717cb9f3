"""The logs of trainings, of whatever program, as rows of the same few numbers.

Read are our own workdirs, the ``log.txt`` of facebookresearch/detr, JSON lines such as Detectron2's, the
``trainer_state.json`` of transformers, CSV tables and TensorBoard's event files.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from detr_jax.errors import UserError
from detr_jax.evaluation.log_columns import AXES, COCO, column_name, known_columns
from detr_jax.evaluation.log_files import EVENTS, FILES, find_log, read_log
from detr_jax.remote import RemoteFolder, is_remote

READ = "a workdir, a log.txt of the original DETR, JSON lines, a CSV table, or TensorBoard's event files"


ENDINGS = (".txt", ".csv", ".json", ".jsonl")
CLOCK = ("time", "images_per_second")


class RunLog(NamedTuple):
    """What a training logged.

    Attributes:
      rows: in the order of time. Each has those of ``AXES`` that are known, and some of loss, its terms, lr,
        AP, AP50, ... ; what is not finite is left out.
      settings: the run's config.json, flat (``optim.lr``); empty for other programs.
      total_steps: how many the run shall have; None where that is not known.
      notes: sentences about what was understood and what was left out.
    """

    name: str
    path: str
    rows: list[dict[str, float]]
    settings: dict[str, object]
    total_steps: int | None
    notes: list[str]

    def points(self, axis: str, name: str) -> np.ndarray:
        """The curve of one number, [2, points]: where on the axis, and the values."""
        found = [(row[axis], row[name]) for row in self.rows if axis in row and name in row]
        return np.array(found, float).reshape(-1, 2).T

    def has(self, axis: str) -> bool:
        """Whether its curves can be drawn over that axis."""
        return any(axis in row and len(row.keys() - set(AXES)) for row in self.rows)


def read_runs(given: list[str]) -> tuple[list[RunLog], list[str]]:
    """The runs at these paths and URLs, each of which may be ``NAME=PATH``, and sentences about those left out.

    A folder without a log of its own stands for the runs in its subfolders.

    Raises UserError when something does not exist or is no log, or when no run has logged anything yet.
    """
    places = [(name, place) for one in given for name, place in _places(*_split_name(one))]
    if not places:
        raise UserError(f"there is no log in {', '.join(given)}; pass {READ}")
    nameless = [place for name, place in places if not name]
    tails = dict(zip(nameless, distinguish(nameless), strict=True))
    runs, notes = [], []
    for name, place in places:
        run = read_run(place, name or tails[place])
        if run.rows:
            runs.append(run)
        else:
            notes.append(run.notes[-1] if run.notes else f"{place} has logged nothing yet; left out")
    if not runs:
        raise UserError(f"nothing to draw: {'; '.join(notes)}")
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"two runs are named {twice}; give each path once, as --workdir=NAME=PATH with names of its own"
        )
    return runs, notes


def distinguish(paths: list[str]) -> list[str]:
    """The shortest part of each path that tells them apart: its last folder or file, or all but what they share."""
    parts = [PurePosixPath(path).parts for path in paths]
    parts = [one[:-1] if len(one) > 1 and one[-1] in ("tb", *FILES) else one for one in parts]
    if len({one[-1] for one in parts}) == len(set(parts)):
        return [PurePosixPath(one[-1]).stem if one[-1].endswith(ENDINGS) else one[-1] for one in parts]
    shortest, start, end = min(map(len, parts)), 0, 0
    while start < shortest - 1 and len({one[start] for one in parts}) == 1:
        start += 1
    while end < shortest - start - 1 and len({one[-1 - end] for one in parts}) == 1:
        end += 1
    short = ["/".join(one[start : len(one) - end]) for one in parts]
    return short if len(set(short)) == len(short) else list(paths)


def read_run(place: str, name: str) -> RunLog:
    """The run at a path or URL; without rows where it has logged nothing yet. Raises UserError when it is no log."""
    if not is_remote(place):
        return _read_local(Path(place), place, name)
    with tempfile.TemporaryDirectory() as folder:
        return _read_local(_copy_here(place, Path(folder)), place, name)


def _split_name(given: str) -> tuple[str, str]:
    """NAME=PATH, where the path may itself hold a ``=``."""
    name, equals, path = given.partition("=")
    if not equals or "/" in name or Path(given).expanduser().exists():
        return "", given
    return name, path


def _places(name: str, place: str) -> Iterator[tuple[str, str]]:
    """The path itself or, where it is a folder of runs, each of them."""
    if is_remote(place):
        yield name, place
        return
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"--workdir: {place} does not exist; pass {READ}")
    if find_log(path):
        yield name, str(path)
        return
    below = sorted(child for child in path.iterdir() if child.is_dir() and (find_log(child) or _is_workdir(child)))
    if not below and not _is_workdir(path):
        raise UserError(f"--workdir: there is no log in {place}; pass {READ}")
    for child in below or [path]:
        yield (f"{name}/{child.name}" if name and below else name), str(child)


def _is_workdir(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "train.log").is_file()


def _copy_here(url: str, folder: Path) -> Path:
    """The log at a URL, and the settings beside it, as files in ``folder``."""
    if RemoteFolder(url).is_file():
        above, _, name = url.rpartition("/")
        names = [name]
    else:
        above = url
        names = [*FILES, "config.json"]
    there = RemoteFolder(above)
    found = {name: data for name in names if (data := there.read(name)) is not None}
    if not found:
        found = {name: there.read(name) or b"" for name in there.list() if PurePosixPath(name).name.startswith(EVENTS)}
    if not found:
        raise UserError(f"--workdir: there is no log at {url}; pass {READ}")
    for name, data in found.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / names[0] if len(names) == 1 else folder


def _read_local(path: Path, place: str, name: str) -> RunLog:
    log = find_log(path)
    if log is None:
        return RunLog(name, place, [], {}, None, [])
    settings = _read_settings((path if path.is_dir() else path.parent) / "config.json")
    logged, notes = read_log(log, place)
    rows = [known_columns(row) for row in logged]
    columns = list(dict.fromkeys(key for row in logged for key in row))
    if logged and not settings:
        notes.append(_describe_columns(columns, place))
    if "train_loss" in columns and "step" not in columns:
        for row in rows:  # the original counts epochs from 0, and writes a row where one has ended
            row |= {"epoch": epoch + 1} if (epoch := row.get("epoch")) is not None else {}
    losses = [row["loss"] for row in rows if "loss" in row]
    if None in losses:
        notes.append(f"{place}: {losses.count(None)} of {len(losses)} losses are not finite; the curve has gaps there")
    known, dropped = _drop_superseded([{k: v for k, v in row.items() if v is not None} for row in rows])
    if dropped:
        notes.append(f"{place} was continued from an earlier step; {dropped} values that came before it are left out")
    if _make_shares(known):
        notes.append(f"{place} has AP in percent; divided by 100")
    complete_axes(known, settings.get("train.batch_size"))
    known = [row for row in known if row.keys() - {*AXES, *CLOCK}]
    if logged and not known:
        notes = [f"{place} has no numbers that can be drawn (its columns are {', '.join(columns[:8])}); left out"]
    if known and not any("step" in row or "epoch" in row for row in known):
        raise UserError(f"{place} counts neither steps nor epochs; name a column step or epoch")
    return RunLog(name, place, known, settings, _total_steps(settings, known), notes)


def _read_settings(path: Path) -> dict[str, object]:
    """The config.json of a run, flat; empty where there is none of ours."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        groups = {key: value if isinstance(value, dict) else {"": value} for key, value in tree.items()}
    except (OSError, ValueError, AttributeError):
        return {}
    flat = {f"{key}.{name}".rstrip("."): value for key, group in groups.items() for name, value in group.items()}
    return flat if "train.batch_size" in flat else {}


def _total_steps(settings: dict[str, object], rows: list[dict[str, float]]) -> int | None:
    if isinstance(steps := settings.get("train.steps"), int) and steps:
        return steps
    last = next((row for row in reversed(rows) if row.get("epoch") and "step" in row), None)
    epochs = settings.get("train.epochs")
    return round(last["step"] / last["epoch"] * epochs) if last and epochs else None


def _describe_columns(columns: list[str], place: str) -> str:
    taken = {column: name for column in columns if (name := column_name(column))}
    taken |= {column: "AP" for column in columns if column.endswith("coco_eval_bbox")}
    words = [name if name == column else f"{name} ({column})" for column, name in taken.items() if name not in CLOCK]
    left = [column for column in columns if column not in taken]
    shown = f"; not drawn: {', '.join(left[:6])}{f' and {len(left) - 6} more' if len(left) > 6 else ''}" if left else ""
    return f"{place}: {', '.join(words) or 'nothing that is known'}{shown}"


def _drop_superseded(rows: list[dict[str, float]]) -> tuple[list[dict[str, float]], int]:
    """Without what a run logged beyond the step from which it was continued, and the number of such values."""
    kept, dropped = [], 0
    first: dict[str, float] = {}  # where each curve begins, as far as it has been seen from the end
    beyond: set[str] = set()  # the curves of which the rows seen last come after that
    for row in reversed(rows):
        where = row.get("step", row.get("epoch"))
        if where is None:
            kept.append(row)
            continue
        names = row.keys() - {*AXES, *CLOCK}
        old = {name for name in names if where > (begin := first.get(name, where)) or name in beyond and where == begin}
        beyond = beyond - names | old
        first |= dict.fromkeys(names - old, where)
        dropped += len(old)
        kept.append({name: value for name, value in row.items() if name not in old})
    return kept[::-1], dropped


def _make_shares(rows: list[dict[str, float]]) -> bool:
    """AP in percent becomes shares of 1; whether it was."""
    if not any(row.get(name, 0) > 1 for row in rows for name in COCO):
        return False
    for row in rows:
        row.update({name: row[name] / 100 for name in COCO if name in row})
    return True


def complete_axes(rows: list[dict[str, float]], batch_size: object) -> None:
    """Adds to each row the epoch, images and hours that follow from its step and from other rows.

    Hours are those of ``time`` (seconds), or of the steps at ``images_per_second``: without evaluations and pauses.
    """
    times = [row["time"] for row in rows if "time" in row]
    if times and times == sorted(times):  # else it is the time of each step
        begin = times[0] if times[0] > 1e8 else 0.0  # seconds since 1970, or since the start
        for row in rows:
            if "time" in row:
                row["hours"] = (row["time"] - begin) / 3600
    elif isinstance(batch_size, int):
        step, hours = 0.0, 0.0
        for row in rows:
            if row.get("images_per_second", 0) > 0 and "step" in row:
                hours += (row["step"] - step) * batch_size / row["images_per_second"] / 3600
                step, row["hours"] = row["step"], hours
    for axis in ("epoch", "hours"):
        known = sorted({row["step"]: row[axis] for row in rows if "step" in row and axis in row}.items())
        for row in rows if known else ():
            if "step" in row and axis not in row:
                row[axis] = float(np.interp(row["step"], *np.array([(0.0, 0.0), *known]).T))
    if isinstance(batch_size, int):
        for row in rows:
            if "step" in row:
                row["images"] = row["step"] * batch_size
