"""Why is it wrong, and which is better. Works on COCO annotations and COCO results of any detector.

    python -m detr_jax.analyze errors --annotations=FILE --predictions=FILE --output=DIR    (or --workdir=RUN)
    python -m detr_jax.analyze compare --annotations=FILE --predictions a=FILE b=FILE --output=DIR
    python -m detr_jax.analyze curves --workdir=A --workdir=B --output=DIR
    python -m detr_jax.analyze run --workdir=RUN

``errors`` prints what to do about the errors, and writes a page (report.html), errors.json, tables, pictures, a
threshold for each class and a calibration table. ``compare`` sets detectors side by side, with confidence intervals,
and writes compare.json, compare.md, tables and pictures. ``curves`` draws the losses and scores of several trainings
over each other. ``run`` writes the report on one training, which ``train`` writes at its end.
"""

import json
from pathlib import Path

from absl import flags

from detr_jax import cli
from detr_jax.config_forms import from_dict
from detr_jax.datasets import coco
from detr_jax.datasets.split import open_split
from detr_jax.errors import UserError
from detr_jax.evaluation import (
    advice,
    compare,
    compare_plots,
    curves,
    error_plots,
    errors,
    mistakes,
    overlay,
    protocol,
    report,
    run_report,
    verdicts,
)
from detr_jax.evaluation.compare import Comparison
from detr_jax.evaluation.compare_files import write_comparison
from detr_jax.evaluation.compare_text import format_comparison, write_markdown
from detr_jax.evaluation.conventions import describe_conventions
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.facts import read_facts
from detr_jax.evaluation.log_columns import AXES
from detr_jax.evaluation.named_files import name_files
from detr_jax.evaluation.published import STANDING, caveat, nearest, read_published
from detr_jax.evaluation.report import Compared
from detr_jax.evaluation.results import read_results
from detr_jax.evaluation.run_logs import read_runs
from detr_jax.evaluation.side_by_side import draw_differences
from detr_jax.evaluation.tide import MEANINGS
from detr_jax.evaluation.translation import read_classes
from detr_jax.remote import is_remote
from detr_jax.structures import Categories

FEWEST_DRAWS, MOST_DRAWS = 50, 20_000


def read_output(predictions: str) -> Path:
    """The folder of --output. Raises UserError when a flag is missing; ``predictions`` is how to pass those."""
    args = flags.FLAGS
    for name in ("annotations", "predictions", "output"):
        if getattr(args, name) in (None, "", [], [""]):
            raise UserError(f"--{name} is missing; pass --annotations=FILE {predictions} --output=DIR")
    return output_folder()


def output_folder() -> Path:
    """The folder of --output. Raises UserError when it is a file."""
    output = Path(flags.FLAGS.output).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file; choose a folder")
    return output


def output_of_run() -> Path:
    """The folder of --output, by default one in the run of --workdir. Raises UserError for flags that do not fit."""
    args = flags.FLAGS
    if len(args.workdir) > 1 or args.predictions or args.annotations:
        raise UserError("errors takes one --workdir, or --annotations and --predictions, not both")
    return output_folder() if args.output else Path(args.workdir[0]).expanduser() / "analysis"


def read_given() -> tuple[str, str, dict]:
    """Name of the annotations, path of the predictions, and the annotations themselves, of the flags."""
    path = Path(flags.FLAGS.annotations).expanduser()
    return path.name, flags.FLAGS.predictions[0], coco.read_annotations(path)


def find_run() -> tuple[str, str, dict]:
    """The same of the newest evaluation in --workdir, a run of detr_jax.train. Raises UserError where there is none."""
    workdir = Path(flags.FLAGS.workdir[0]).expanduser()
    found = [path for path in workdir.glob("eval/*/predictions.json") if path.parent.name.isdigit()]
    if not found:
        raise UserError(f"--workdir={workdir} holds no eval/<step>/predictions.json; pass a run that was evaluated")
    newest = max(found, key=lambda path: int(path.parent.name))
    try:
        data = from_dict(json.loads((workdir / "config.json").read_text(encoding="utf-8"))).data
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir / 'config.json'} cannot be read ({error}); pass --annotations too") from error
    split = open_split(data.dir, data.name, data.val_split, verify=False)
    print(f"{newest} on {data.name} {data.val_split}")
    return f"{data.name} {data.val_split}", str(newest), split.ground_truth()


def photo_folder() -> Path | None:
    """The folder of --images, if it is given. Raises UserError when it is none."""
    photos = Path(flags.FLAGS.images).expanduser() if flags.FLAGS.images else None
    if photos and not photos.is_dir():
        raise UserError(f"--images={photos} is no folder; pass the one that the file names of the annotations are in")
    return photos


def find_errors(more: list[str]) -> None:
    """Finds why a detector is wrong: errors by kind, what to do about them, a threshold for each class."""
    args = flags.FLAGS
    cli.refuse_words(more)
    output = output_of_run() if args.workdir else read_output("--predictions=FILE")
    if not 0 < args.precision <= 1:
        raise UserError(f"--precision={args.precision:g} must be above 0 and at most 1")
    if len(args.predictions) > 1:
        raise UserError(f"errors takes one file of --predictions, not {len(args.predictions)}; compare takes several")
    photos, rules = photo_folder(), protocol.read_protocol(args.iou, args.max_dets, args.areas)
    annotations, predictions, ground_truth = find_run() if args.workdir else read_given()
    table = read_detector_classes(args.categories)
    results, notes = read_results(predictions, ground_truth, table, args.class_map)
    for note in [*describe_conventions(ground_truth), *notes]:
        print(f"note: {note}")
    found = errors.analyse(ground_truth, results, args.precision, rules)
    said = advice.advise(found)
    errors.write_errors(found, said, output)
    mistakes.write_mistakes(found, output / "mistakes.csv")
    error_plots.draw_all(found, output)
    source = Compared(annotations, Path(predictions).name, photos)
    for note in report.write_report(found, said, source, output / "report.html"):
        print(f"note: {note}")
    print(describe(found))
    for line in said:
        print(f"- {line}")
    print(f"open {output / 'report.html'} in a browser")
    print(f"see {output}: errors.json, tables (*.csv), pictures (*.png), thresholds.json")


def read_detector_classes(given: str | None) -> Categories | None:
    """The table that ``--categories`` names: a file, or the word ``coco``."""
    return coco.COCO_CATEGORIES if given == "coco" else given and read_classes(given)


def describe(found: Analysis) -> str:
    """The figures in a few lines."""
    metrics = found.metrics
    lines = [
        f"{len(found.image_ids)} images, {len(found.pairing.objects.labels)} objects, {len(found.pairing.scores)} "
        f"detections: AP {metrics.AP:.3f}, AP50 {metrics.AP50:.3f}, AP75 {metrics.AP75:.3f}, oLRP {found.mean_lrp:.3f}"
    ]
    for name, meaning in MEANINGS.items():
        count = found.tide.counts.get(name)
        number = "" if count is None else f"{count:7,d}"
        lines.append(f"  {name:5} {100 * found.tide.costs[name]:6.2f} AP50 {number:>8}  {meaning}")
    if found.other:
        lines.append(protocol.format_figures(found.other.protocol, found.other.numbers))
    return "\n".join(lines)


def compare_detectors(more: list[str]) -> None:
    """Sets detectors side by side, with confidence intervals.

    ``more``: files that follow the first one of --predictions after a space.
    """
    args = flags.FLAGS
    output = read_output("--predictions NAME=FILE NAME=FILE")
    if not FEWEST_DRAWS <= args.draws <= MOST_DRAWS:
        raise UserError(f"--draws={args.draws} must be {FEWEST_DRAWS} to {MOST_DRAWS:,}")
    if args.seed < 0:
        raise UserError(f"--seed={args.seed} must not be negative")
    photos = photo_folder()
    if given := [name for name in protocol.OPTIONS if getattr(args, name)]:
        raise UserError(f"compare follows COCO's own rules; leave out --{given[0]}, or use errors")
    paths = name_files([*args.predictions, *more], "--predictions")
    facts = {name: read_facts(path) for name, path in name_files(args.info, "--info").items()}
    if unknown := [name for name in facts if name not in paths]:
        raise UserError(f"--info names {unknown[0]!r}, which is none of the detectors ({', '.join(paths)})")

    ground_truth = coco.read_annotations(Path(args.annotations).expanduser())
    table = read_detector_classes(args.categories)
    bench = compare.set_up(ground_truth, args.draws, args.seed)
    detectors = []
    for name, path in paths.items():
        results, notes = read_results(path, ground_truth, table, args.class_map)
        for note in notes:
            print(f"note: {note}")
        detectors.append(compare.measure_detector(bench, name, results))
    comparison = compare.compare(bench, detectors)
    is_coco = set(bench.truth.names) == set(coco.COCO_CATEGORIES.names)
    use = is_coco if args.published is None else args.published
    rows = read_published() if use else []
    few = nearest(rows, [one.metrics.AP for one in detectors]) if rows else []
    said = verdicts.judge(comparison, facts)
    if rows:
        said += [line for line in (caveat(is_coco, len(bench.truth.images)), STANDING) if line]
    write_comparison(comparison, facts, rows, said, output)
    write_markdown(comparison, facts, few, said, output)
    compare_plots.draw_comparison(comparison, few, output)
    print(format_comparison(comparison, few))
    for line in said:
        print(f"- {line}")
    if photos:
        draw_pairs(comparison, photos, output / "images")
    print(f"see {output}: compare.md, compare.json, tables (*.csv), pictures (*.png)")


def draw_pairs(comparison: Comparison, photos: Path, folder: Path) -> None:
    """Draws the images where detectors differ most, of the pairs that are spoken of."""
    drawn, failed = 0, []
    for difference in verdicts.chosen_pairs(comparison):
        count, troubles = draw_differences(comparison, difference, photos, folder)
        drawn, failed = drawn + count, failed + troubles
    print(f"{drawn} images drawn in {folder}: ground truth green, correct blue, wrong red, missed orange")
    if failed:
        print(f"note: {len(failed)} images could not be drawn, the first because {failed[0]}")


def overlay_curves(more: list[str]) -> None:
    """Draws the losses and scores of several trainings over each other.

    ``more``: runs that follow the first --workdir after a space.
    """
    args = flags.FLAGS
    if not args.workdir or not args.output:
        missing = "output" if args.workdir else "workdir"
        raise UserError(f"--{missing} is missing; pass --workdir=DIR for each run, and --output=DIR")
    output = output_folder()
    runs, notes = read_runs([*args.workdir, *more])
    for note in [*notes, *(note for run in runs for note in run.notes)]:
        print(f"note: {note}")
    found = curves.compare_runs(runs, args.x)
    curves.write_curves(found, output)
    overlay.draw_runs(found, output / "curves.png")
    print(curves.describe_runs(found))
    print(f"see {output}: curves.png, curves.csv, curves.json")


def report_run(more: list[str]) -> None:
    """Writes report.html and REPORT.md on a training, finished or not: figures, curves, images, settings, commands."""
    args = flags.FLAGS
    cli.refuse_words(more)
    if len(args.workdir) != 1:
        raise UserError(f"run takes one --workdir=RUN, not {len(args.workdir)}")
    name = args.workdir[0]
    if is_remote(name):
        raise UserError(f"--workdir={name} is a URL, and its report is there when the run is done; else copy it here")
    workdir = Path(name).expanduser()
    if not workdir.is_dir():
        raise UserError(f"--workdir={name} is no folder; pass the workdir of a training")
    written = run_report.write_run_report(workdir, open_split, name, output_folder() if args.output else None)
    for note in written.notes:
        print(f"note: {note}")
    print(" ".join(written.summary))
    print(f"open {written.page} in a browser; {written.page.with_name('REPORT.md')} says the same")


VERBS = {"errors": find_errors, "compare": compare_detectors, "curves": overlay_curves, "run": report_run}


def main(argv: list[str]) -> None:
    """Runs the verb that the arguments name."""
    act, more = cli.choose_verb(argv, VERBS)
    act(more)


def define_flags() -> None:
    """The flags of this program."""
    define = flags.DEFINE_string
    define("annotations", None, "errors, compare: COCO instances file with the ground truth.")
    flags.DEFINE_multi_string(
        "predictions",
        [],
        "errors: COCO results file: a list of rows with image_id, category_id, bbox and score. compare: "
        "such files, NAME=FILE NAME=FILE ..., also with commas; a file without a name takes its own.",
    )
    flags.DEFINE_multi_string("info", [], "compare: NAME=FILE, JSON with parameters, images_per_second, hardware, ...")
    define(
        "images",
        None,
        "errors: folder of the photos, to be shown. compare: folder of the photos, to draw those that differ.",
    )
    flags.DEFINE_integer("draws", compare.DRAWS, "compare: how often the images are drawn for the intervals.")
    flags.DEFINE_integer("seed", 0, "compare: decides the draws.")
    flags.DEFINE_bool("published", None, "compare: list published figures; by default when the classes are COCO's.")
    flags.DEFINE_multi_string(
        "workdir",
        [],
        "errors: a run, whose newest evaluation is taken. curves: a run, or a log of another program; may be repeated. "
        "run: the run.",
    )
    flags.DEFINE_enum("x", None, AXES, "curves: over what they are drawn; by default what the runs have in common.")
    define("output", None, "errors, compare, curves: folder for what is found. run: folder, by default the run's own.")
    define(
        "categories", None, "errors, compare: classes that the ids of the results mean: a COCO file, or the word coco."
    )
    define(
        "class_map", None, "errors, compare: JSON file {detector's class name: dataset's class name} where they differ."
    )
    for name, meaning in protocol.OPTIONS.items():
        define(name, None, f"errors: {meaning}")
    flags.DEFINE_float("precision", 0.9, "errors: precision for which a threshold of each class is computed, too.")


if __name__ == "__main__":
    cli.run(main, define_flags, VERBS)
