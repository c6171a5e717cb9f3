"""The report on a training as ``REPORT.md``. Pictures are links into the workdir; any name in it stays text."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detr_jax import files
from detr_jax.evaluation.run_files import RunFiles

SPECIAL = re.compile(r"[\\`*\[\]|$~]|(?<!\w)[_#]|_(?!\w)")  # what Markdown, tables and formulas take for markup
CLASS_COLUMNS = ("AP", "AP50", "AR100", "objects", "detections", "trained")
CLASS_TITLES = ("class", "AP", "AP50", "AR", "objects", "detections", "objects in training")
EVALUATION_COLUMNS = ("AP", "AP50", "AP75", "AR100")


def write_markdown_report(told: dict[str, Any], run: RunFiles, images: list[Path], path: Path) -> None:
    """Writes the file, whole.

    Args:
      told: what ``run_report.tell`` returns, and the rows of the images.
      images: the files of these rows.
    """
    with files.replacing(path) as sibling:
        sibling.write_text("\n".join(_lines(told, run, images, path.parent)) + "\n", encoding="utf-8")


def escape(text: str) -> str:
    """The text as Markdown that means nothing but it, on one line."""
    text = " ".join(text.split())
    return SPECIAL.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _lines(told: dict[str, Any], run: RunFiles, images: list[Path], folder: Path) -> list[str]:
    parts = [
        [f"# {escape(told['title'])}", "", " ".join(map(escape, told["summary"]))],
        [f"> {escape(note)}\n" for note in told["notes"]],
        _figures(told),
        _pictures(told, run, folder),
        _classes(told),
        _images(told, images, folder),
        _list("What to do next", [*told["progress"], *told["advice"]], _advice_note(told)),
        _usage(told),
        _facts("Data", told["data"]),
        _settings(told),
        _loaded(told),
        _starts(told),
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def _figures(told: dict[str, Any]) -> list[str]:
    figures = told["figures"]
    if not figures:
        return []
    rows = [(name.removesuffix("100"), _number(figures[name]), text) for name, text in told["meanings"].items()]
    more = ", ".join(f"{name} {_number(value)}" for name, value in figures.items() if name not in told["meanings"])
    return [
        f"## Result at step {told['best_step']:,}",
        "",
        *_table(("figure", "value", "what it means"), rows),
        "",
        f"COCO's other figures: {escape(more)}. Small is below 32 x 32 pixels, large from 96 x 96.",
    ]


def _pictures(told: dict[str, Any], run: RunFiles, folder: Path) -> list[str]:
    lines = []
    sample = run.find_sample()
    if sample:
        lines += ["## Samples", "", "Validation images at the last evaluation: annotations left, detections right.", ""]
        lines += [_picture("Validation images with annotations and detections", sample, folder), ""]
    if (run.folder / "curves.png").is_file():
        lines += ["## Curves", "", _picture("Curves of the training", run.folder / "curves.png", folder), ""]
    if told["evaluations"]:
        rows = [(f"{one['step']:,}", *(_number(one[key]) for key in EVALUATION_COLUMNS)) for one in told["evaluations"]]
        lines += _folded("All evaluations", _table(("step", "AP", "AP50", "AP75", "AR"), rows))
    return lines


def _classes(told: dict[str, Any]) -> list[str]:
    if not told["classes"]:
        return []
    rows = [(row["name"], *(_number(row[key]) for key in CLASS_COLUMNS)) for row in told["classes"]]
    return ["## Classes", "", "The worst first.", "", *_table(CLASS_TITLES, rows)]


def _images(told: dict[str, Any], images: list[Path], folder: Path) -> list[str]:
    if not images:
        return []
    lines = ["## Best and worst images", "", f"{escape(told['measure'])} {escape(told['legend'])}"]
    for kind in ("worst", "best"):
        pairs = [pair for pair in zip(told["images"], images, strict=True) if pair[0]["kind"] == kind]
        if pairs:
            lines += ["", f"### The {kind}"]
        for row, path in pairs:
            lines += ["", f"{escape(row['name'])}: {row['caption']}", "", _picture(f"{kind} image", path, folder)]
    return lines


def _advice_note(told: dict[str, Any]) -> str:
    command = next((one["command"] for one in told["commands"] if "analyze errors" in one["command"]), "")
    return f"The files that are named here are written by `{command}`." if told["advice"] and command else ""


def _usage(told: dict[str, Any]) -> list[str]:
    lines = ["## How to use it"]
    for one in told["commands"]:
        lines += ["", f"{escape(one['purpose'])}:", "", *_code(one["command"])]
    return [*lines, "", "In Python:", "", *_code(told["python"].rstrip(), "python")]


def _settings(told: dict[str, Any]) -> list[str]:
    if not told["settings"]:
        return []
    rows = [(one["name"], one["value"], one["default"], one["meaning"]) for one in told["changed"]]
    intro = "What differs from the defaults, which are the published recipe of DETR with a ResNet-50."
    changed = _table(("setting", "value", "default", "meaning"), rows) if rows else ["Nothing differs."]
    every = _folded("All settings", _table(("setting", "value"), told["settings"]))
    return ["## Settings", "", intro, "", *changed, "", *every]


def _loaded(told: dict[str, Any]) -> list[str]:
    lines = ["## What was loaded", ""]
    if not told["loaded"] and not told["weights"]:
        return [*lines, escape(told["nothing_loaded"])]
    for text in told["loaded"]:
        lines += [*_code(text), ""]
    return [*lines, *_table(("file", "sha256"), told["weights"])] if told["weights"] else lines[:-1]


def _starts(told: dict[str, Any]) -> list[str]:
    lines = ["## Time and machine", "", *_items(told["machine"])]
    columns = ("time", "from", "to", "duration", "host", "devices", "ended")
    if told["starts"]:
        rows = [[str(one[column]) for column in columns] for one in told["starts"]]
        lines += ["", *_table(("start", "from step", "to step", "duration", "host", "devices", "ended"), rows), ""]
        lines += ["The command of the last start:", "", *_code(told["starts"][-1]["command"])]
    return lines


def _facts(title: str, rows: list[list[str]]) -> list[str]:
    return [f"## {title}", "", *_items(rows)] if rows else []


def _items(rows: list[list[str]]) -> list[str]:
    return [f"- **{escape(term)}**: {escape(text)}" for term, text in rows]


def _list(title: str, texts: list[str], note: str = "") -> list[str]:
    lines = [f"## {title}", "", *(f"- {escape(text)}" for text in texts)]
    return [*lines, *(["", note] if note else [])] if texts else []


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *([escape(str(cell)) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _folded(title: str, lines: list[str]) -> list[str]:
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>"]


def _code(text: str, language: str = "") -> list[str]:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *text.splitlines(), fence]


def _picture(words: str, path: Path, folder: Path) -> str:
    return f"![{words}]({quote(Path(os.path.relpath(path, folder)).as_posix())})"


def _number(value: float | int) -> str:
    """A figure, or a count; what does not exist is a dash."""
    if value < 0:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
