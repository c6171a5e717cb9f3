"""Scores a checkpoint on a split by COCO's rules.

    python -m detr_jax.evaluate --workdir=DIR                                  the run's own validation split
    python -m detr_jax.evaluate --checkpoint=C --data_name=N --data_dir=D --split=val

Prints COCO's 12 lines and writes metrics.json, per_class.csv, predictions.json and pr_curve.png into --output. Runs on
every device, and on several hosts like training; the first host prints and writes.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from detr_jax import cli, devices, hosts
from detr_jax.datasets.split import Split, open_split
from detr_jax.errors import UserError
from detr_jax.evaluation import coco_eval
from detr_jax.inference.detector import Detector, load
from detr_jax.remote import is_remote
from detr_jax.structures import Categories, Detections


def read_class_map(path: str | None) -> dict[str, str]:
    """The file of --class_map. Raises UserError if it is not a JSON object of names."""
    if path is None:
        return {}
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--class_map={path} cannot be read as JSON: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f'--class_map={path} must hold an object like {{"model\'s name": "dataset\'s name"}}')
    return table


def ids_by_name(model: Categories, dataset: Categories, renamed: dict[str, str]) -> list[int | None]:
    """The dataset's category id of each label of the model, matched by name; None where it has no such class.

    Classes of one name are told apart by their ids, which then must be the same in both.

    Raises UserError when no class matches, or when it is not clear which.
    """
    ids = [
        _id_by_name(category_id, name, renamed, model, dataset)
        for category_id, name in zip(model.ids, model.names, strict=True)
    ]
    if all(category_id is None for category_id in ids):
        raise UserError(
            f"the model's classes ({', '.join(model.names[:5])}, ...) and the dataset's "
            f"({', '.join(dataset.names[:5])}, ...) have no name in common; pass --class_map=FILE.json"
        )
    return ids


def _id_by_name(
    category_id: int, name: str, renamed: dict[str, str], model: Categories, dataset: Categories
) -> int | None:
    """The dataset's category id of one class of the model."""
    wanted = renamed.get(name, name)
    own, others = model.ids_of_name(name), dataset.ids_of_name(wanted)
    if len(others) <= 1 and (len(own) <= 1 or not others):
        return others[0] if others else None
    if wanted == name and own == others:
        return category_id
    raise UserError(
        f"classes cannot be matched by name: {name!r} is category {' and '.join(map(str, own))} of the model, "
        f"{wanted!r} is category {' and '.join(map(str, others))} of the dataset; give the dataset's classes names "
        "of their own"
    )


def refuse_unknown_names(renamed: dict[str, str], model: Categories, dataset: Categories) -> None:
    """Raises UserError when the class map names classes that do not exist: a typo would cost AP unnoticed."""
    names = [(name, model, "model") for name in renamed] + [(name, dataset, "dataset") for name in renamed.values()]
    for name, table, whose in names:
        if name not in table.names:
            raise UserError(
                f"--class_map names {name!r}, which is no class of the {whose} ({', '.join(table.names[:9])})"
            )


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


def main(argv: list[str]) -> int:
    """Evaluates; returns the exit status."""
    args = flags.FLAGS
    source = args.checkpoint or args.workdir
    if source is None:
        raise UserError("nothing to evaluate: pass --workdir=DIR or --checkpoint=DIR")
    hosts.start_hosts()
    detector = load(source, devices.make_mesh())
    split, name = open_chosen(detector)
    renamed = read_class_map(args.class_map)
    refuse_unknown_names(renamed, detector.categories, split.categories)
    ids = ids_by_name(detector.categories, split.categories, renamed)
    missing = [other for other, known in zip(detector.categories.names, ids, strict=True) if known is None]
    if missing:
        hosts.say(f"{len(missing)} of the model's classes are not in {name}: {', '.join(missing)}")

    results, broken = [], []
    silent = jax.process_index() > 0 or not sys.stderr.isatty()
    for row, found in tqdm(detector.over(split, args.batch_size), total=len(split), disable=silent):
        results += as_results(found, split.image_ids[row], ids)
        broken += [int(split.image_ids[row])] if not len(found) else []
    if broken:
        some = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        hosts.say(
            f"{len(broken)} of {len(split)} images cannot be decoded and count as images without detections "
            f"(ids {some}); python -m detr_jax.dataset check says why"
        )
    metrics = coco_eval.evaluate(split.ground_truth(), results)
    in_a_run = detector.path.is_dir() and not is_remote(source)
    run = detector.path.parents[1] if in_a_run else Path()  # of a single file or a URL, the current folder
    default = run / "eval" / re.sub(r"[^\w.]+", "-", f"{name}-{split.name}")
    output = Path(args.output) if args.output else default
    if jax.process_index() == 0:
        coco_eval.write_evaluation(metrics, results, output)
    hosts.say(coco_eval.format_summary(metrics))
    if metrics.AP < 0:
        hosts.say(coco_eval.NO_OBJECTS)
    hosts.say(f"{detector.path} on {len(split)} images of {name} {split.name}: see {output}")
    if args.min_ap is not None and not args.min_ap <= metrics.AP:
        hosts.say(f"AP {metrics.AP:.4f} is below --min_ap={args.min_ap}")
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
    flags.DEFINE_float("min_ap", None, "Exit with status 1 if AP is lower.")
    flags.DEFINE_integer("batch_size", 4, "Images at a time.", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
