"""Everything about data before training: prepare it, check it, look at it, count it, draw a synthetic set.

python -m detr_jax.dataset prepare --name=cells --data_dir=data --root=FOLDER
python -m detr_jax.dataset check   --root=FOLDER                (or --name=cells --data_dir=data)
python -m detr_jax.dataset show    --name=cells --data_dir=data --split=train --n=16 --output=grid.png
python -m detr_jax.dataset stats   --name=cells --data_dir=data
python -m detr_jax.dataset shapes  --root=FOLDER                (with --name=shapes also prepared)
"""

from pathlib import Path

import numpy as np
from absl import flags

from detr_jax import drawing, cli
from detr_jax.datasets import prepare as builder, folders as coco_folder, decode, inspection, shapes, split
from detr_jax.datasets.folders import Source
from detr_jax.errors import UserError

FLAGS = flags.FLAGS
SPLITS = ("train", "val", "test")

flags.DEFINE_string("name", None, "Name of the prepared dataset: lower case letters, digits and underscores.")
flags.DEFINE_string("data_dir", "data", "Folder of all prepared datasets.")
flags.DEFINE_string("root", None, "Folder in COCO or Roboflow layout; for shapes, the new folder to write.")
for _split in SPLITS:
    flags.DEFINE_string(f"{_split}_images", None, f"Folder of the {_split} images, instead of --root.")
    flags.DEFINE_string(f"{_split}_annotations", None, f"COCO instances JSON of the {_split} images.")
flags.DEFINE_bool("overwrite", False, "prepare: replace a dataset of the same name.")
flags.DEFINE_bool("skip_missing", False, "prepare: leave out images that are listed but not on disk.")
flags.DEFINE_string("split", None, "check, show, stats: which split, like train or val[:100].")
flags.DEFINE_integer("n", 16, "show: number of images, spread evenly over the split.")
flags.DEFINE_string("output", "grid.png", "show: the picture to write.")
for _name, _default in shapes.DEFAULT._asdict().items():
    flags.DEFINE_integer(_name, _default, f"shapes: {shapes.MEANING[_name]}.")


def prepare() -> None:
    """Images and COCO annotations -> DATA_DIR/NAME, and a line for each split."""
    summaries = builder.prepare(
        _sources(), FLAGS.data_dir, _name_flag(), overwrite=FLAGS.overwrite, skip_missing=FLAGS.skip_missing
    )
    _print_summaries(summaries)


def check() -> int:
    """Decodes every image and names every defect; 1 if there is one that training would stop on."""
    if FLAGS.name:
        splits = [FLAGS.split] if FLAGS.split else split.names(FLAGS.data_dir, FLAGS.name)
        found = {name: inspection.of_split(split.open_split(FLAGS.data_dir, FLAGS.name, name)) for name in splits}
    else:
        found = {name: inspection.of_source(source) for name, source in _sources().items()}
    for name, defects in found.items():
        for defect in defects:
            print(f"{name}: {defect.kind}: {defect.where}")
        print(f"{name}: {len(defects):,} defects, {sum(defect.stops for defect in defects):,} that stop training")
    return int(any(defect.stops for defects in found.values() for defect in defects))


def show() -> None:
    """Draws the boxes and names of some images on one sheet."""
    chosen = split.open_split(FLAGS.data_dir, _name_flag(), FLAGS.split or "train")
    if FLAGS.n < 1:
        raise UserError(f"--n={FLAGS.n} shows nothing: give 1 or more")
    pictures = []
    for row in np.unique(np.linspace(0, len(chosen) - 1, FLAGS.n).round().astype(int)):
        record = chosen[row]
        names = [chosen.categories.names[label] for label in record.labels]
        image = decode.decode(record.image, tuple(chosen.sizes[row].tolist()))
        pictures.append(drawing.draw_boxes(image, record.boxes_xyxy_pixels, names, record.labels.tolist()))
    drawing.save(drawing.grid(pictures, columns=int(np.ceil(len(pictures) ** 0.5))), FLAGS.output)
    print(f"{FLAGS.output}: {len(pictures)} of {len(chosen):,} images")


def stats() -> None:
    """Prints how many boxes of which class and size there are, and how large the images are."""
    for name in [FLAGS.split] if FLAGS.split else split.names(FLAGS.data_dir, _name_flag()):
        chosen = split.open_split(FLAGS.data_dir, FLAGS.name, name)
        counts = inspection.statistics(chosen)
        (low_h, low_w), (mid_h, mid_w), (high_h, high_w) = np.percentile(chosen.sizes, (0, 50, 100), axis=0).astype(int)
        print(f"{name}: {len(chosen):,} images, height {low_h} to {high_h} (median {mid_h}), ", end="")
        print(f"width {low_w} to {high_w} (median {mid_w}); {(counts.boxes_of_image == 0).sum():,} without boxes")
        print(f"  {counts.boxes.sum():,} boxes and {counts.crowds:,} crowds; in an image ", end="")
        print(f"{counts.boxes_of_image.mean():.1f} boxes on average, {counts.boxes_of_image.max()} at most")
        print(f"  {'id':>6} {'class':<24} {'boxes':>9} {'images':>9} {'small':>9} {'medium':>9} {'large':>9}")
        for label, (category_id, title) in enumerate(zip(*chosen.categories, strict=True)):
            numbers = (counts.boxes[label].sum(), counts.images[label], *counts.boxes[label])
            print(f"  {category_id:>6} {title:<24} " + " ".join(f"{number:>9,}" for number in numbers))


def draw_shapes() -> None:
    """Writes the synthetic set as a COCO folder (--root), or prepares it (--name), or both."""
    settings = shapes.Settings(*(getattr(FLAGS, name) for name in shapes.Settings._fields))
    if not (FLAGS.root or FLAGS.name):
        raise UserError("nothing to write: pass --root=FOLDER for a COCO folder, --name=shapes for a prepared dataset")
    if FLAGS.root:
        shapes.write(FLAGS.root, settings)
        print(f"{FLAGS.root}: {settings.train:,} + {settings.val:,} images")
    if FLAGS.name:
        shapes.prepare(FLAGS.data_dir, FLAGS.name, settings)
        print(f"{Path(FLAGS.data_dir) / FLAGS.name}: prepared")


VERBS = {"prepare": prepare, "check": check, "show": show, "stats": stats, "shapes": draw_shapes}


def _name_flag() -> str:
    if not FLAGS.name:
        raise UserError("the dataset has no name yet: pass --name=NAME (and --data_dir=DIR if it is not ./data)")
    return FLAGS.name


def _sources() -> dict[str, Source]:
    """The splits that the flags describe: explicit paths, or what lies in --root."""
    given = {name: (FLAGS[f"{name}_images"].value, FLAGS[f"{name}_annotations"].value) for name in SPLITS}
    for name, (images, annotations) in given.items():
        if bool(images) != bool(annotations):
            missing = "annotations" if images else "images"
            raise UserError(
                f"--{name}_{missing} is missing: pass it with --{name}_{'images' if annotations else 'annotations'}"
            )
    explicit = {name: Source(*(Path(path).expanduser() for path in pair)) for name, pair in given.items() if all(pair)}
    if bool(explicit) == bool(FLAGS.root):
        raise UserError(
            "pass either --root=FOLDER or explicit paths (--train_images, --train_annotations, --val_images, "
            f"--val_annotations){', not both' if explicit else ''}"
        )
    return explicit or coco_folder.find_sources(FLAGS.root)


def _print_summaries(summaries: dict[str, builder.Summary]) -> None:
    for name, summary in summaries.items():
        degenerate = summary.degenerate
        print(
            f"{name}: {summary.images:,} images ({summary.empty:,} empty), {summary.missing:,} missing, "
            f"{summary.targets:,} boxes, {summary.crowd:,} crowds, {len(degenerate):,} degenerate boxes dropped, "
            f"{summary.classes:,} classes"
        )
        for where in degenerate[:10]:
            print(f"  degenerate: {where}")
        if len(degenerate) > 10:
            print(f"  ... and {len(degenerate) - 10:,} more: python -m detr_jax.dataset check lists them")


def main(argv: list[str]) -> int | None:
    """Runs the verb."""
    if len(argv) != 2 or argv[1] not in VERBS:
        seen = " ".join(argv[1:]) or "nothing"
        raise UserError(f"{seen!r} is no verb: type python -m detr_jax.dataset with one of {', '.join(VERBS)}")
    return VERBS[argv[1]]()


if __name__ == "__main__":
    cli.run(main)
