"""Why is it wrong: ``python -m detr_jax.analyze errors --annotations=FILE --predictions=FILE --output=DIR``.

Works on COCO annotations and COCO results of any detector. Prints what to do about the errors, and writes errors.json,
tables, pictures, a threshold for each class and a calibration table.
"""

from pathlib import Path

from absl import flags

from detr_jax import cli
from detr_jax.datasets import coco
from detr_jax.errors import UserError
from detr_jax.evaluation import advice, error_plots, errors
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.results import read_results
from detr_jax.evaluation.tide import MEANINGS

VERBS = ("errors",)


def find_errors() -> None:
    """The verb ``errors``."""
    args = flags.FLAGS
    for name in ("annotations", "predictions", "output"):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing; pass --annotations=FILE --predictions=FILE --output=DIR")
    if not 0 < args.precision <= 1:
        raise UserError(f"--precision={args.precision:g} must be above 0 and at most 1")
    output = Path(args.output).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file; choose a folder")
    ground_truth = coco.read_annotations(Path(args.annotations).expanduser())
    results, notes = read_results(args.predictions, ground_truth)
    for note in notes:
        print(f"note: {note}")
    found = errors.analyse(ground_truth, results, args.precision)
    said = advice.advise(found)
    errors.write_errors(found, said, output)
    error_plots.draw_all(found, output)
    print(describe(found))
    for line in said:
        print(f"- {line}")
    print(f"see {output}: errors.json, tables (*.csv), pictures (*.png), thresholds.json")


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
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Runs the verb that the arguments name."""
    if argv[1:] not in ([verb] for verb in VERBS):
        given = f"{' '.join(argv[1:])!r} is not understood" if argv[1:] else "a verb is missing"
        raise UserError(f"{given}; choose from {', '.join(VERBS)}")
    find_errors()


def define_flags() -> None:
    """The flags of this program."""
    define = flags.DEFINE_string
    define("annotations", None, "COCO instances file with the ground truth.")
    define("predictions", None, "COCO results file: a list of rows with image_id, category_id, bbox and score.")
    define("output", None, "Folder for what is found.")
    flags.DEFINE_float("precision", 0.9, "Precision for which a threshold of each class is computed, too.")


if __name__ == "__main__":
    cli.run(main, define_flags)
