"""The report on a training: ``report.html``, one file with everything inside, and the same as ``REPORT.md``.

Both are made from what the run left in its workdir, at any time, by whoever has it; the annotations and photos of the
validation split are used where they are still there.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detr_jax import files, names
from detr_jax.config import Config, settings
from detr_jax.config_forms import as_flags
from detr_jax.errors import UserError
from detr_jax.evaluation import advice, run_images, run_summary, run_usage
from detr_jax.evaluation.coco_eval import NAMES, ClassMetrics
from detr_jax.evaluation.errors import Analysis, analyse
from detr_jax.evaluation.page import build_page
from detr_jax.evaluation.plots import LOGARITHMIC, PANELS, with_scores
from detr_jax.evaluation.results import is_number, read_results
from detr_jax.evaluation.run_data import RunData, SplitOpener, describe_split, list_names, read_run_data
from detr_jax.evaluation.run_files import RunFiles, Session, read_class_metrics, read_run_files
from detr_jax.evaluation.run_images import DrawnImage
from detr_jax.evaluation.run_markdown import write_markdown_report
from detr_jax.images.decoding import Limits

FOLDER = "report"  # of the pictures, beside REPORT.md
POINTS = 240  # of a curve
WIDE = 3  # how many times the least value the largest one is where an axis is logarithmic
SAMPLE = 0  # number of the picture of samples in the page; those of single images follow


class RunReport(NamedTuple):
    """What was written, and its main sentences."""

    page: Path
    summary: list[str]
    notes: list[str]


def write_run_report(workdir: Path, open_split: SplitOpener, name: str = "", output: Path | None = None) -> RunReport:
    """Writes ``report.html``, ``REPORT.md`` and its pictures, each file whole.

    Args:
      workdir: of a training, finished or not.
      open_split: how to open a split of a prepared dataset.
      name: the workdir as it is to be typed in commands.
      output: where to write, by default into the workdir.

    Raises UserError when ``workdir`` is no workdir.
    """
    run, output = read_run_files(workdir), output or workdir
    data = read_run_data(run.config.data if run.config else None, open_split)
    errors, troubles = _analyse(run, data)
    drawn: list[DrawnImage] = []
    if errors and data.val:
        limits = Limits(*run.config.data.image_limits)
        drawn, problems = run_images.draw_images(errors, data.val, limits)
        troubles += problems
    sample = run_images.read_sample(run.find_sample())
    told = tell(run, data, errors, name or str(workdir))
    told["notes"] = [*run.notes, *data.notes, *troubles, *run_summary.describe_troubles(run)]
    told["images"] = [_image_row(one, SAMPLE + 1 + place) for place, one in enumerate(drawn)]
    told["sample"] = sample is not None
    pictures = {SAMPLE + 1 + place: one.picture for place, one in enumerate(drawn)}
    pictures |= {SAMPLE: sample} if sample else {}
    page = output / "report.html"
    with files.replacing(page) as sibling:
        sibling.write_text(build_page("run", told["title"], told, pictures), encoding="utf-8")
    paths = run_images.write_images(drawn, output / FOLDER)
    write_markdown_report(told, run, paths, output / "REPORT.md")
    return RunReport(page, told["summary"], told["notes"])


def _analyse(run: RunFiles, data: RunData) -> tuple[Analysis | None, list[str]]:
    """The errors of the best evaluation, or sentences why there are none."""
    if run.best is None or data.truth is None:
        return None, []
    path = run.folder / "eval" / str(run.best.step) / "predictions.json"
    if not path.is_file():
        return None, [f"eval/{run.best.step}/predictions.json is gone, so images are not shown."]
    try:
        results, notes = read_results(path, data.truth)
    except UserError as error:
        return None, [f"{error}, so images are not shown."]
    return analyse(data.truth, results), [f"{note}." for note in notes]


def tell(run: RunFiles, data: RunData, errors: Analysis | None, name: str) -> dict[str, Any]:
    """Everything that both files say but for the images: plain values, which JSON can hold.

    ``name``: the workdir as it is to be typed.
    """
    best = run.best
    threshold = errors.overall.threshold if errors and errors.overall else None
    return {
        "title": f"Training {names.single_line(name)}",
        "name": name,
        "finished": run.is_finished,
        "summary": run_summary.summarise_run(run, data, errors),
        "progress": [
            as_flags(line) for line in (*run_summary.describe_progress(run), *run_summary.describe_symptoms(run, data))
        ],
        "figures": dict(zip(NAMES, best.numbers, strict=True)) if best else {},
        "meanings": run_summary.MEANINGS,
        "best_step": best.step if best else None,
        "last_step": run.last_step,
        "total_steps": run.total_steps,
        "duration": run_summary.describe_duration(run.seconds),
        "evaluations": [{"step": one.step, **dict(zip(NAMES, one.numbers, strict=True))} for one in run.evaluations],
        "panels": draw_panels_of(run.rows),
        "classes": list_classes(run, data),
        "measure": run_images.MEASURE,
        "legend": run_images.LEGEND,
        "advice": [as_flags(line) for line in advice.advise(errors)] if errors else [],
        "data": _describe_data(run, data),
        "changed": _list_changed(run.config) if run.config else [],
        "settings": [[one.name, _shown(one.value)] for one in settings(run.config)] if run.config else [],
        "loaded": run.loaded,
        "nothing_loaded": run_summary.describe_nothing_loaded(run),
        "weights": _list_weights(run),
        "starts": [_describe_start(run, place) for place in range(len(run.sessions))],
        "machine": _describe_machine(run),
        "commands": [one._asdict() for one in run_usage.list_commands(run, name, threshold)],
        "python": run_usage.python_snippet(name, threshold),
    }


def _image_row(one: DrawnImage, picture: int) -> dict[str, Any]:
    name = names.single_line(one.file_name)
    return {"kind": one.kind, "picture": picture, "name": name, "caption": one.caption}


def draw_panels_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves of ``curves.png``: panels with a title, and lines with a name and [step, value] points.

    A curve of many points is the mean of neighbours.
    """
    rows = [with_scores(row) for row in rows]
    panels = []
    for title, keys in PANELS.items():
        lines = []
        for key in keys:
            points = np.array([(row["step"], row[key]) for row in rows if is_number(row.get(key))], float)
            if len(points):
                thinned = [[float(f"{value:.5g}") for value in point] for point in _thin(points).tolist()]
                lines.append({"name": key, "points": thinned})
        if lines:
            values = [value for line in lines for _, value in line["points"]]
            wide = min(values) > 0 and max(values) > WIDE * min(values)
            panels.append({"title": title, "logarithmic": title in LOGARITHMIC and wide, "lines": lines})
    return panels


def _thin(points: np.ndarray) -> np.ndarray:
    if len(points) <= POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, POINTS)])


def list_classes(run: RunFiles, data: RunData) -> list[dict[str, Any]]:
    """The figures of each class in the best evaluation, the worst first; -1 where it has no object to find."""
    if run.best is None:
        return []
    found = read_class_metrics(run.folder / "eval" / str(run.best.step) / "metrics.json")
    if not found:  # the log has their AP
        found = [ClassMetrics(-1, name, AP, -1, -1, -1, -1, -1, -1) for name, AP in run.best.by_class.items()]
    trained = data.trained if found and found[0].id != -1 else None
    rows = [
        {
            **{key: getattr(one, key) for key in ("AP", "AP50", "AP75", "AR100", "objects", "images", "detections")},
            "name": names.single_line(one.name) or "(no name)",
            "trained": trained.get(one.id, 0) if trained is not None else -1,
        }
        for one in found
    ]
    return sorted(rows, key=lambda row: (row["AP"] < 0, row["AP"], row["AP50"], row["name"]))


def _describe_data(run: RunFiles, data: RunData) -> list[list[str]]:
    if run.config is None:
        return []
    own = run.config.data
    rows = [["dataset", names.single_line(f"{own.name} in {own.dir}", shorten=False)]]
    if split := data.train or data.val:
        rows.append([f"{len(split.categories.names)} classes", list_names(split.categories.names, 40)])
    for what, split, opened in (
        ("training", own.train_split, data.train),
        ("validation", own.val_split, data.val),
    ):
        known = describe_split(opened) if opened else "not there any more"
        rows.append([f"{what} split", f"{split}: {known}"])
    return rows


def _list_changed(config: Config) -> list[dict[str, str]]:
    """The settings that are not the published recipe's."""
    pairs = zip(settings(config), settings(Config()), strict=True)
    return [
        {
            "name": one.name,
            "value": _shown(one.value),
            "default": _shown(usual.value),
            "meaning": one.rule.meaning.replace("`", ""),
        }
        for one, usual in pairs
        if one.value != usual.value
    ]


def _shown(value: Any) -> str:
    """A setting as text; a list without the names of its fields."""
    if value in (None, "", ()):
        return "none"
    if isinstance(value, tuple):
        value = ", ".join(str(tuple(one)) if isinstance(one, tuple) else str(one) for one in value)
    return names.single_line(str(value), shorten=False)


def _list_weights(run: RunFiles) -> list[list[str]]:
    """The files that were loaded and their sha256."""
    known: dict[str, str] = {}
    for session in run.sessions:
        digests = session.record.get("weights_sha256")
        known |= digests if isinstance(digests, dict) else {}
    return [[names.single_line(path, shorten=False), str(digest)] for path, digest in known.items()]


def _describe_start(run: RunFiles, place: int) -> dict[str, Any]:
    session = run.sessions[place]
    until = run.sessions[place + 1].step if place + 1 < len(run.sessions) else run.last_step
    return {
        "time": f"{session.begin:%Y-%m-%d %H:%M}" if session.begin else "unknown",
        "from": session.step,
        "to": max(until, session.step),
        "duration": run_summary.describe_duration(session.seconds),
        "host": str(session.record.get("host", "unknown")),
        "devices": run_summary.describe_hardware([session]),
        "ended": _ending(session, place + 1 == len(run.sessions) and run.is_finished),
        "command": session.command,
    }


def _ending(session: Session, finished: bool) -> str:
    if finished:
        return "at its end"
    return "stopped" if session.last_words.startswith("stopped") else "without a word"


def _describe_machine(run: RunFiles) -> list[list[str]]:
    """Hardware, speed and versions, of the last start."""
    record = run.sessions[-1].record if run.sessions else {}
    rows = [["devices", run_summary.describe_hardware(run.sessions[-1:])]]
    if "host" in record:
        rows.append(["host", str(record["host"])])
    speeds = [row["images_per_second"] for row in run.rows if is_number(row.get("images_per_second"))]
    if speeds:
        rows.append(["speed", f"{np.median(speeds):.3g} images a second (median), without evaluations"])
    memory = [row["device_memory"] for row in run.rows if is_number(row.get("device_memory"))]
    if memory:
        rows.append(["memory of a device", f"{max(memory) / 1e9:.1f} GB at most"])
    packages = record.get("packages")
    versions = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    if versions:
        rows.append(["versions", ", ".join([f"Python {record.get('python')}", *versions])])
    if record.get("git"):
        rows.append(["commit of detr_jax", str(record["git"])])
    return rows
