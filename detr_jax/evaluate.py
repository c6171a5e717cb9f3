"""Scores a checkpoint on a split by COCO's rules.

    python -m detr_jax.evaluate --workdir=DIR                                  the run's own validation split
    python -m detr_jax.evaluate --checkpoint=C --data_name=N --data_dir=D --split=val

Prints COCO's 12 lines and writes metrics.json, per_class.csv, predictions.json and pr_curve.png into --output. Runs on
every device, and on several hosts like training; the first host prints and writes.
"""

import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from detr_jax import cli, devices, hosts
from detr_jax.class_names import describe_matches, match_classes, read_class_map, require_match
from detr_jax.datasets.split import Split, open_split
from detr_jax.errors import UserError
from detr_jax.evaluation import coco_eval, protocol
from detr_jax.evaluation.class_table import MOST, format_classes
from detr_jax.evaluation.coco_eval import CocoMetrics
from detr_jax.evaluation.conventions import describe_conventions
from detr_jax.evaluation.other_rules import evaluate_by
from detr_jax.evaluation.plots import save_figure
from detr_jax.evaluation.robustness import Robustness, draw_examples, format_table, write_robustness
from detr_jax.images.corruptions import KINDS, Corruption, read_corruptions
from detr_jax.images.decoding import Limits, decode
from detr_jax.inference.detector import Detector, load
from detr_jax.remote import is_remote
from detr_jax.structures import Categories, Detections


def as_results(detections: Detections, image_id: int, ids: list[int | None]) -> list[dict]:
    """Rows of the COCO results format with the dataset's category ids; classes it does not have are left out."""
    known = np.array([ids[label] is not None for label in detections.labels], bool)
    categories = Categories(tuple(ids), detections.categories.names)
    return dataclasses.replace(detections.take(known), categories=categories).to_coco(image_id)


def open_chosen(detector: Detector) -> tuple[Split, str]:
    """The split that the flags choose, by default the run's own validation split, and the name of its dataset.

    Raises UserError when neither the flags nor the weights tell, or when there is no such split.
    """
    args = flags.FLAGS
    if detector.config is None:
        if not (args.data_name and args.data_dir and args.split):
            raise UserError(
                f"{detector.path} does not say what to evaluate on: pass --data_name, --data_dir and --split"
            )
        return open_split(args.data_dir, args.data_name, args.split), args.data_name
    data = detector.config.data
    name = args.data_name or data.name
    return open_split(args.data_dir or data.dir, name, args.split or data.val_split), name


def detect(detector: Detector, split: Split, ids: list[int | None], corruption: Corruption | None = None) -> list[dict]:
    """The results on a split with the dataset's ids, of images as they are or corrupted. Says which are broken."""
    args, results, broken = flags.FLAGS, [], []
    silent, title = jax.process_index() > 0 or not sys.stderr.isatty(), " ".join(map(str, corruption or ()))
    over = detector.over(split, args.batch_size, corruption)
    for row, found in tqdm(over, title, total=len(split), disable=silent):
        results += as_results(found, split.image_ids[row], ids)
        broken += [int(split.image_ids[row])] if not len(found) else []
    if broken and not corruption:
        some = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        hosts.say(
            f"{len(broken)} of {len(split)} images cannot be decoded and count as images without detections "
            f"(ids {some}); python -m detr_jax.dataset check says why"
        )
    return results


def measure_robustness(
    detector: Detector,
    split: Split,
    ids: list[int | None],
    clean: CocoMetrics,
    corruptions: list[Corruption],
    output: Path,
) -> None:
    """Evaluates under each corruption; what is known is written after each."""
    found, truth, writes = Robustness(clean, []), split.ground_truth(), jax.process_index() == 0
    if writes:
        record = split[0]
        image = decode(record.image, tuple(split.sizes[0].tolist()), limits=Limits(*detector.data.image_limits))
        save_figure(draw_examples(image, record.image_id, corruptions), output / "corruptions.png")
    for corruption in corruptions:
        found = found.add(corruption, coco_eval.evaluate(truth, detect(detector, split, ids, corruption)))
        if writes:
            write_robustness(found, output)
    hosts.say(format_table(found))


def main(argv: list[str]) -> int:
    """Evaluates; returns the exit status."""
    cli.refuse_words(argv[1:])
    args = flags.FLAGS
    source = args.checkpoint or args.workdir
    if source is None:
        raise UserError("nothing to evaluate: pass --workdir=DIR or --checkpoint=DIR")
    rules = protocol.read_protocol(args.iou, args.max_dets, args.areas)
    corruptions = read_corruptions(args.corrupt, args.severity) if args.corrupt else []
    hosts.start_hosts()
    detector = load(source, devices.make_mesh())
    split, name = open_chosen(detector)
    renamed = read_class_map(args.class_map, detector.categories, split.categories)
    matches = match_classes(detector.categories, split.categories, renamed)
    require_match(matches, detector.categories, split.categories)
    for line in describe_matches(matches, detector.categories, split.categories, name):
        hosts.say(line)

    results = detect(detector, split, matches.ids)
    truth = split.ground_truth()
    for note in describe_conventions(truth):
        hosts.say(f"note: {note}")
    metrics = coco_eval.evaluate(truth, results)
    other = evaluate_by(rules, truth, results) if rules != protocol.COCO else None
    in_a_run = detector.path.is_dir() and not is_remote(source)
    run = detector.path.parents[1] if in_a_run else Path()  # of a single file or a URL, the current folder
    default = run / "eval" / re.sub(r"[^\w.]+", "-", f"{name}-{split.name}")
    output = Path(args.output) if args.output else default
    if jax.process_index() == 0:
        coco_eval.write_evaluation(metrics, results, output, other)
    hosts.say(protocol.format_figures(rules, other.numbers) if other else coco_eval.format_summary(metrics))
    if metrics.AP < 0:
        hosts.say(coco_eval.NO_OBJECTS)
    hosts.say(format_classes(metrics.classes))
    if len(metrics.classes) > MOST:
        hosts.say(f"all {len(metrics.classes)} classes: {output / 'per_class.csv'}")
    if corruptions:
        measure_robustness(detector, split, matches.ids, metrics, corruptions, output)
    hosts.say(f"{detector.path} on {len(split)} images of {name} {split.name}: see {output}")
    name, AP = (other.names[0], other.numbers[0]) if other else ("AP", metrics.AP)
    if args.min_ap is not None and not args.min_ap <= AP:
        hosts.say(f"{name} {AP:.4f} is below --min_ap={args.min_ap}")
        return 1
    return 0


def define_flags() -> None:
    """The flags of this program."""
    define = flags.DEFINE_string
    define("workdir", None, "A run of detr_jax.train: its best checkpoint on its validation split.")
    define("checkpoint", None, "A workdir, one of its checkpoints/<step>, a .pth, .safetensors or hub name.")
    define("data_name", None, "Name of a prepared dataset; by default the run's.")
    define("data_dir", None, "Folder of the prepared datasets; by default the run's.")
    define("split", None, "Split to evaluate; by default the run's validation split.")
    define("class_map", None, "JSON file {model's class name: dataset's class name} where they differ.")
    define("output", None, "Folder for the results; by default eval/<dataset>-<split> of the run, or here.")
    for name, meaning in protocol.OPTIONS.items():
        define(name, None, meaning)
    define("corrupt", None, f"Kinds of corrupted images to evaluate on, too: all, or some of {', '.join(KINDS)}.")
    define("severity", "1..5", "How badly images are corrupted: 1..5, or some of it such as 3 or 1,3,5.")
    flags.DEFINE_float("min_ap", None, "Exit with status 1 if AP is lower.")
    flags.DEFINE_integer("batch_size", 4, "Images at a time.", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
