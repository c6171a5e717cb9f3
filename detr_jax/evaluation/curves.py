"""What the curves of several runs say: how far each is, which is ahead, and whether that means anything."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detr_jax import files
from detr_jax.errors import UserError
from detr_jax.evaluation.log_columns import AXES
from detr_jax.evaluation.plots import running_mean
from detr_jax.evaluation.run_logs import RunLog

UNITS = {"step": "steps", "epoch": "epochs", "images": "images", "hours": "hours"}
SMOOTHED = 0.02  # share of the longest run over which the mean of a noisy curve is taken
BOOKKEEPING = ("train.log_every", "train.checkpoint_every", "train.keep", "train.samples", "train.hang_minutes")
SAME_LOSS = ("loss.", "model.decoder_layers", "model.queries", "model.class_scores", "model.denoising", "model.masks")
SAME_DATA = ("data.name", "data.dir", "data.val_split")
SHOWN = 6  # runs, or settings, that a sentence names


class RunSummary(NamedTuple):
    """What became of one run; ``at`` is on the axis of the comparison. None where it was not measured."""

    name: str
    path: str
    last: float
    total_steps: int | None
    best_AP: float | None
    best_AP_at: float | None
    common_AP: float | None  # of the last evaluation up to ``RunComparison.common``
    common_AP_at: float | None
    last_loss: float | None  # the running mean, as all losses here
    common_loss: float | None
    loss_halved_at: float | None


class RunComparison(NamedTuple):
    """Several runs over one axis.

    Attributes:
      common: up to where all runs have been evaluated or, where fewer than two are, have logged a loss.
      differences: settings that are not the same in all runs that have any: one value for each run.
      notes: sentences about what can be compared and what cannot.
    """

    axis: str
    runs: list[RunLog]
    summaries: list[RunSummary]
    common: float | None
    differences: dict[str, list[Any]]
    notes: list[str]

    def window(self, run: RunLog, name: str) -> int:
        """The points of a curve over which its mean is taken: as long a part of the axis for every run."""
        where = run.points(self.axis, name)[0]
        span = max(summary.last for summary in self.summaries) * SMOOTHED
        return _window(where, span)


def compare_runs(runs: list[RunLog], axis: str | None = None) -> RunComparison:
    """Compares runs over an axis, by default one that they have in common.

    Raises UserError when no run has that axis.
    """
    axis, notes = choose_axis(runs, axis)
    drawn = [run for run in runs if run.has(axis)]
    differences = _different_settings(drawn)
    common = _common(drawn, axis)
    longest = max(row[axis] for run in drawn for row in run.rows if axis in row)
    summaries = [_summarise(run, axis, common, longest * SMOOTHED) for run in drawn]
    notes += _limits(drawn, axis, differences)
    return RunComparison(axis, drawn, summaries, common, differences, notes)


def choose_axis(runs: list[RunLog], wanted: str | None) -> tuple[str, list[str]]:
    """The axis over which most runs can be drawn, and sentences: why, and which runs are left out."""
    sizes = {run.settings.get("train.batch_size") for run in runs}
    differ = len(sizes) > 1 and None not in sizes
    order = ("images", "epoch", "step", "hours") if differ else AXES
    axis = wanted or max(order, key=lambda axis: sum(run.has(axis) for run in runs))  # the first of those that tie
    out = [run for run in runs if not run.has(axis)]
    if len(out) == len(runs):
        raise UserError(f"--x={axis}: no run tells its {UNITS[axis]}; they have {_axes_of(runs)}")
    notes = [f"{run.name} does not tell its {UNITS[axis]}, only {_axes_of([run])}; left out" for run in out]
    if differ and not wanted and axis == "images":
        notes.append(f"batch sizes differ ({_some(sorted(sizes))}), so the runs are compared over images, not steps")
    elif differ and axis == "step":
        notes.append(f"batch sizes differ ({_some(sorted(sizes))}): equal steps are different numbers of images")
    return axis, notes


def describe_runs(found: RunComparison) -> str:
    """A table of the runs, and below it what it says."""
    unit = UNITS[found.axis]
    head = ["run", unit, "best AP", "at", f"AP at {_number(found.common)}", "loss", "halved by"]
    table = [head]
    for one in found.summaries:
        reached = _number(one.last)
        if found.axis == "step" and one.total_steps and one.last < one.total_steps:
            reached += f" of {one.total_steps}"
        score = [_score(one.best_AP), _number(one.best_AP_at), _score(one.common_AP)]
        table.append([one.name, reached, *score, _number(one.last_loss), _number(one.loss_halved_at)])
    if found.common is None or len(found.runs) == 1:
        table = [row[:4] + row[5:] for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in conclude(found))])


def conclude(found: RunComparison) -> list[str]:
    """Which run is ahead at equal steps, what that is worth, and what must not be compared."""
    said = list(found.notes)
    if found.differences:
        words = [f"{name} ({_some(values)})" for name, values in found.differences.items()]
        said.append(f"The runs differ in {_some(words)}.")
    scored = [one for one in found.summaries if one.common_AP is not None]
    if len(scored) > 1:
        said += [_rank(found, scored, "AP", lambda one: -one.common_AP), *_worth(found)]
    elif len(found.summaries) > 1:
        losses = [one for one in found.summaries if one.common_loss is not None]
        said.append("No two of these runs have been evaluated up to the same place: only their losses can be compared.")
        if len(losses) > 1:
            said.append(_rank(found, losses, "loss", lambda one: one.common_loss))
    if len(scored) > 1 and len(scored) < len(found.summaries):
        out = [one.name for one in found.summaries if one.common_AP is None]
        said.append(f"Not ranked, for want of an evaluation that far: {_some(out)}.")
    return said


def write_curves(found: RunComparison, output: Path) -> None:
    """Writes curves.csv (run, x, name, value) and curves.json."""
    rows: list[list] = [["run", found.axis, "name", "value"]]
    for run in found.runs:
        for name in dict.fromkeys(name for row in run.rows for name in row if name not in AXES):
            rows += [[run.name, where, name, value] for where, value in run.points(found.axis, name).T.tolist()]
    files.write_csv(output / "curves.csv", rows)
    told = {
        "x": found.axis,
        "common": found.common,
        "runs": [one._asdict() for one in found.summaries],
        "differences": {name: dict(zip([run.name for run in found.runs], values, strict=True))
                        for name, values in found.differences.items()},
        "said": conclude(found),
    }  # fmt: skip
    with files.replacing(output / "curves.json") as path:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _window(where: np.ndarray, span: float) -> int:
    gaps = np.diff(where)
    gap = float(np.median(gaps)) if len(gaps) else 0.0
    return max(1, min(round(span / gap), len(where) // 20)) if gap > 0 else 1


def _common(runs: list[RunLog], axis: str) -> float | None:
    """The end of the first run at which it and all longer ones, at least two, have a score or else a loss."""
    for name in ("AP", "loss"):
        spans = [(where[0], where[-1]) for run in runs if len(where := run.points(axis, name)[0])]
        for end in sorted(last for _, last in spans):
            begins = [first for first, last in spans if last >= end]
            if len(begins) > 1 and max(begins) <= end:
                return float(end)
    return None


def _summarise(run: RunLog, axis: str, common: float | None, span: float) -> RunSummary:
    where, AP = run.points(axis, "AP")
    at, loss = run.points(axis, "loss")
    at, loss = running_mean(at, loss, _window(at, span))
    best = int(AP.argmax()) if len(AP) else None
    here, there = _last_upto(where, common), _last_upto(at, common)
    halved = np.flatnonzero(loss <= loss[0] / 2) if len(loss) and loss[0] > 0 else ()
    return RunSummary(
        run.name,
        run.path,
        max(row[axis] for row in run.rows if axis in row),
        run.total_steps,
        None if best is None else float(AP[best]),
        None if best is None else float(where[best]),
        None if here is None else float(AP[here]),
        None if here is None else float(where[here]),
        float(loss[-1]) if len(loss) else None,
        None if there is None else float(loss[there]),
        float(at[halved[0]]) if len(halved) else None,
    )


def _last_upto(where: np.ndarray, end: float | None) -> int | None:
    """The last point up to ``end``; None for a curve that ends before."""
    if end is None or not len(where) or where[-1] < end:
        return None
    found = np.flatnonzero(where <= end)
    return int(found[-1]) if len(found) else None


def _different_settings(runs: list[RunLog]) -> dict[str, list[Any]]:
    """The settings whose values differ among the runs that have settings; None for a run without."""
    with_settings = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(name for settings in with_settings for name in settings if name not in BOOKKEEPING)
    return {
        name: [run.settings.get(name) for run in runs]
        for name in names
        if len({json.dumps(settings.get(name)) for settings in with_settings}) > 1
    }


def _limits(runs: list[RunLog], axis: str, differences: dict[str, list[Any]]) -> list[str]:
    """What of these runs must not be compared, or only with care."""
    if len(runs) < 2:
        return []
    said = []
    data = [name for name in differences if name in SAME_DATA]
    loss = [name for name in differences if name.startswith(SAME_LOSS)]
    unknown = [run.name for run in runs if not run.settings]
    if data:
        said.append(f"The data differ ({_some(data)}): compare AP only if the validation images are the same.")
    if loss:
        said.append(f"The losses are not the same sum ({_some(loss)} differ): compare AP, not loss.")
    if unknown and axis == "step":
        said.append(f"The batch size of {_some(unknown)} is not known: equal steps may be different numbers of images.")
    if axis == "epoch" and (data or unknown):
        said.append("An epoch may be a different number of images in each run.")
    if unknown:
        said.append(f"Of {_some(unknown)} no settings are known: AP and loss may be measured in another way there.")
    if axis == "hours":
        said.append("Hours of a workdir are without evaluations and pauses; those of other logs are with them.")
    return said


def _rank(found: RunComparison, among: list[RunSummary], name: str, key: Callable[[RunSummary], float]) -> str:
    ranked = sorted(among, key=key)
    first, second = ranked[:2]
    show = _score if name == "AP" else _number
    words = []
    for one in ranked:
        value, at = (one.common_AP, one.common_AP_at) if name == "AP" else (one.common_loss, found.common)
        early = f" (evaluated at {_number(at)})" if at < found.common * 0.999 else ""
        words.append(f"{one.name} {show(value)}{early}")
    level = show(abs(key(first))) == show(abs(key(second)))
    verdict = "the first two are level" if level else f"{first.name} is ahead"
    return f"After {_number(found.common)} {UNITS[found.axis]} {verdict}: {name} {_some(words)}."


def _worth(found: RunComparison) -> list[str]:
    """What a difference in AP is worth, beside the spread of runs that differ in the seed alone."""
    groups: dict[str, list[float]] = {}
    for run, one in zip(found.runs, found.summaries, strict=True):
        if one.common_AP is not None:
            same = {name: value for name, value in run.settings.items() if name not in ("seed", *BOOKKEEPING)}
            groups.setdefault(json.dumps(same or run.name, sort_keys=True), []).append(one.common_AP)
    spreads = [max(scores) - min(scores) for scores in groups.values() if len(scores) > 1]
    if not spreads:
        return [
            "Each was trained once: that cannot show more than the spread between seeds, which is not known here; "
            "train each with several seeds before you prefer one."
        ]
    if len(groups) == 1:
        if len({run.settings.get("seed") for run in found.runs}) == 1:
            return [f"They have the same settings and seed, and are {spreads[0]:.3f} AP apart."]
        return [f"They differ in the seed alone: {spreads[0]:.3f} AP is what the seed changes."]
    return [f"Runs that differ in the seed alone are up to {max(spreads):.3f} AP apart: a smaller difference is none."]


def _axes_of(runs: list[RunLog]) -> str:
    return ", ".join(UNITS[axis] for axis in AXES if any(run.has(axis) for run in runs)) or "nothing that counts"


def _some(words: list) -> str:
    shown = [str(word) for word in words[:SHOWN]]
    return ", ".join(shown) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
